"""Predictions in parts: that each image is a row once, whatever ends the job."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import mean
import numpy as np
import pytest
from conftest import ROOT, assert_user_error, pattern, write_image
from graphs import write_model
from mean import Mean, put

from cutpaste_tf import cluster
from cutpaste_tf.files import UserError, locked
from cutpaste_tf.predict import parallel, rows
from cutpaste_tf.threshold import Drift

pytestmark = pytest.mark.usefixtures("load_once")


@pytest.fixture
def images(tmp_path):
    """Seven images of growing brightness, one of them broken."""
    return make_images(tmp_path / "new", 7, broken=4)


def make_images(folder, count, broken):
    for i in range(count):
        put(folder, f"{i:03d}.png", 255 * i // (count - 1))
    (folder / f"{broken:03d}.png").write_bytes(b"nothing")
    return folder


@pytest.fixture
def here(monkeypatch):
    """One worker, in this process and without Ray; returns the numbers of the parts it did."""
    done = []
    monkeypatch.setattr(cluster, "prepare_worker", lambda cpus, gpus: 2)

    def score(missing, worker, bar, log, **resources):
        worker = parallel.Worker(*worker, 1.0, 0.0)
        for number, part in missing:
            bar.update(worker.write(number, part))
            done.append(number)
        return 1.0

    monkeypatch.setattr(parallel, "_score", score)
    monkeypatch.setattr(parallel, "SHARD", 2)
    return done


def predict_parts(images, output, make_model=Mean, run="mean"):
    options = {"batch_size": 32, "log": lambda text: None}
    return parallel.predict(make_model, {"run": run}, [images], pathlib.Path(output), **options)


def read(output):
    """The rows of all parts, as a user reads them."""
    import pandas

    table = pandas.read_parquet(output, ignore_prefixes=["_", "maps"])
    return table.astype(object).where(table.notna(), None)


def check(output, images):
    """Asserts that there is nothing but a row for each image."""
    names = [str(path) for path in sorted(images.iterdir())]
    assert list(read(output)["path"]) == names
    parts = {f"part-{number:05d}.parquet" for number in range(-(-len(names) // 2))}
    own = {"_files.parquet", "_job.json", "_lock"}
    assert {path.name for path in output.iterdir()} == parts | own


def test_rows_are_those_of_a_prediction_without_ray(finished, here, images, tmp_path, predict):
    usual = {"run": finished[0], "images": images}
    predict(output=tmp_path / "usual", **usual)
    with open(tmp_path / "usual" / "predictions.jsonl", encoding="utf-8") as file:
        expected = [json.loads(line) for line in file]
    done = predict("--ray", output=tmp_path / "out", **usual)
    assert_user_error(done, "1 of 7 images have an error, the first", "004.png: not an image")
    assert "7 images in 4 parts" in done.stdout
    assert "of 6 images anomalous; 7 in " in done.stdout
    table = read(tmp_path / "out").to_dict("records")
    assert [row.keys() for row in table] == [row.keys() for row in expected]
    for row, other in zip(table, expected, strict=True):
        if other["score"] is not None:
            for name in ("score", "relative_score"):
                assert row[name] == pytest.approx(other[name], rel=1e-5)
        blank = {"score": None, "relative_score": None}
        assert row | blank == other | blank
    # Again: nothing is left to do.
    here.clear()
    again = predict("--ray", output=tmp_path / "out", **usual)
    assert_user_error(again, "1 of 7 images have an error")
    assert "7 images in 4 parts, 4 of them written already" in again.stdout
    assert here == []


def test_an_exported_file_in_the_place_of_a_run(here, images, tmp_path, predict):
    path = write_model(tmp_path / "model.onnx")
    usual = {"model": path, "images": images, "output": tmp_path / "out"}
    done = predict("--ray", **usual)
    assert_user_error(done, "2 of 7 images", "not finite")  # black, and broken
    levels = [255 * i // 6 for i in (1, 2, 3, 5, 6)]
    scores = [score for score in read(tmp_path / "out")["score"] if score is not None]
    np.testing.assert_allclose(scores, np.log(levels), rtol=1e-6)
    write_model(path, bits=12)
    assert_user_error(predict("--ray", **usual), "holds a prediction with another --model")
    usual["output"] = tmp_path / "none"
    assert_user_error(predict("--ray", "--maps", **usual), "--maps", "makes no maps")
    assert not (tmp_path / "none").exists()


def test_drift_is_a_column_and_one_line(here, tmp_path, predict, monkeypatch):
    monkeypatch.setattr(parallel, "SHARD", 30)
    names = [put(tmp_path / "new", f"{number:02}.png", 200) for number in range(25)]
    usual = {"model": write_model(tmp_path / "model.onnx"), "images": tmp_path / "new"}
    line = f"warning: drift at 6 of 25 images, the first {names[19]}: {Drift.ADVICE}\n"
    for output, flags in ((tmp_path / "usual", []), (tmp_path / "ray", ["--ray"])):
        done = predict(*flags, output=output, **usual)
        assert (done.returncode, done.stderr) == (0, line)
    drift = [row["drift"] for row in mean.read_rows(tmp_path / "usual")]
    assert drift == list(read(tmp_path / "ray")["drift"]) == [None] * 19 + [True] * 6


@pytest.mark.slow
@pytest.mark.parametrize("localized", ["features"], indirect=True)
def test_areas_are_a_column(localized, here, images, tmp_path, predict):
    usual, out = {"run": localized[0], "images": images}, tmp_path / "out"
    predict("--maps", output=tmp_path / "usual", **usual)
    predict("--maps", "--ray", output=out, **usual)
    for row in read(out).to_dict("records"):
        areas = (tmp_path / "usual" / "areas.csv").read_text().count(row["path"] + ",")
        assert len(row["areas"]) == areas
        assert all(area["pixels"] > 0 for area in row["areas"])
        assert (row["map"] is None) == (row["error"] is not None)
        if row["map"]:
            assert row["map"].startswith(str(out / "maps"))
            assert pathlib.Path(row["map"]).is_file()
    # Whoever searches the folder later passes its overlays over.
    assert len(list(out.rglob("*.png"))) == 6
    with pytest.raises(UserError, match="no images there"):
        next(rows.find_images([out], tmp_path / "other"))


def test_what_is_missing_is_done_and_the_list_stays(images, here, tmp_path, monkeypatch):
    output = tmp_path / "out"
    output.mkdir()
    # Of another job, which has no parts.
    (output / "_files.parquet").write_bytes(b"PAR1")
    (output / "_job.json").write_text("{}")
    odd = write_image(images / os.fsdecode(b"\xff.png"), pattern(np.random.default_rng(0)))
    monkeypatch.chdir(tmp_path)
    summary = predict_parts("new", "out")
    assert here == [0, 1, 2, 3]
    assert (summary.images, summary.scored, summary.anomalous, summary.failed) == (8, 6, 3, 2)
    assert summary.first_error.startswith(str(images / "004.png"))
    row = read(output).iloc[-1]
    assert row["path"] == str(images / "\\udcff.png")
    assert row["error"] is not None
    before = (output / "part-00000.parquet").stat()
    (output / "part-00002.parquet").unlink()
    (output / "part-00002.parquet.tmp").write_bytes(b"of a worker that was killed")
    write_image(images / "000a.png", pattern(np.random.default_rng(0)))
    here.clear()
    monkeypatch.chdir(images)
    again = predict_parts("../new", "../out")
    assert here == [2]
    assert again == summary
    assert (output / "part-00000.parquet").stat() == before
    (images / "000a.png").unlink()
    odd.rename(images / "\\udcff.png")
    check(output, images)


def test_another_job_is_refused(finished, images, here, tmp_path, predict):
    output = tmp_path / "out"
    usual = {"run": finished[0], "images": images, "output": output, "threshold": 1.0}
    predict("--ray", **usual)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    for change, more, flag in (
        ({"threshold": 2.0}, [], "other --threshold;"),
        ({"images": images / "000.png"}, [], "other --images;"),
        ({}, ["--maps"], "other --maps;"),
    ):
        done = predict("--ray", *more, **usual | change)
        assert_user_error(done, f"--output={output}: holds a prediction with", flag)
    with pytest.raises(UserError, match="other --run"):
        predict_parts(images, output)
    (output / "_job.json").unlink()
    done = predict("--ray", **usual)
    assert_user_error(done, "other --run, --threshold, --maps, --images;")
    (output / "_job.json").write_bytes(before["_job.json"])
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    with locked(output / "_lock"):
        assert_user_error(predict("--ray", **usual), "another command writes there")


def test_what_a_worker_finds_wrong_is_told(images, here, tmp_path):
    def broken():
        raise UserError("--maps: leave it out")

    output = tmp_path / "out"
    with pytest.raises(UserError, match="^--maps: leave it out"):
        predict_parts(images, output, broken)
    assert not list(output.glob(rows.PARTS))  # so that the next start may have other settings
    # A machine that sees other folders.
    predict_parts(images, output)
    for where, root, message in (
        (output, tmp_path / "no", " has no folder "),
        (tmp_path / "no", images, "--output=.*: cannot be written"),
    ):
        worker = parallel.Worker(Mean, where, root, 32, 1.0, 0.0)
        with pytest.raises(UserError, match=message):
            worker.write(0, output / "part")


# Real ones.


def start(images, output, **environment):
    return subprocess.Popen(
        [sys.executable, mean.__file__, "ray", images, output],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | environment,
    )


def workers(process):
    """The processes of Ray's actors."""
    import psutil

    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            # Ray names a worker by what it does at present.
            if "ray::Worker" in " ".join(child.cmdline()):
                found.append(child)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def wait_for_parts(process, output, count):
    deadline = time.monotonic() + 240
    while len(list(output.glob(rows.PARTS))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.xdist_group("ray")
@pytest.mark.slow
def test_workers_and_jobs_that_are_killed_lose_and_double_nothing(tmp_path):
    images, output = make_images(tmp_path / "new", 200, broken=7), tmp_path / "out"
    moments = random.Random(0)
    for _ in range(6):
        process = start(images, output, SHARD="2", SECONDS="0.05")
        # Ray takes some ten seconds to start.
        if moments.random() < 0.7:
            wait_for_parts(process, output, len(list(output.glob(rows.PARTS))) + 1)
            time.sleep(moments.uniform(0.0, 0.5))
        else:
            time.sleep(moments.uniform(0.0, 10.0))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        time.sleep(moments.uniform(0.0, 2.0))
    there = len(list(output.glob(rows.PARTS)))
    process = start(images, output, SHARD="2", SECONDS="0.1")
    wait_for_parts(process, output, there + 3)
    workers(process)[0].send_signal(signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert f"200 images in 100 parts, {there} of them written already\n2 workers" in out
    check(output, images)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_run_is_loaded_in_the_workers(finished, images, tmp_path):
    arguments = [f"--run={finished[0]}", f"--images={images}", f"--output={tmp_path / 'out'}"]
    done = subprocess.run(
        [sys.executable, "-m", "cutpaste_tf.predict", *arguments, "--ray", "--cpus_per_worker=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert_user_error(done, "1 of 7 images", "004.png: not an image")
    assert len(done.stderr.splitlines()) == 1
    assert list(read(tmp_path / "out")["path"]) == [str(p) for p in sorted(images.iterdir())]
