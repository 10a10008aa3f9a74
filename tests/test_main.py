"""The command line, as a user meets it."""

import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.ndimage
import sklearn.metrics
import small
from conftest import (
    QUICK,
    ROOT,
    SHARED_DATA,
    SMALL_MAIN,
    assert_user_error,
    command,
    make_mvtec,
    pattern,
    read_scores,
    slow_but,
    write_image,
)
from PIL import Image

from cutpaste_tf import main, run_folder
from cutpaste_tf.config import Config
from cutpaste_tf.files import UserError
from cutpaste_tf.scoring import metrics
from cutpaste_tf.scoring.detector import Embedder, Evaluator
from cutpaste_tf.train import classifier, loop


def run(data, workdir, *more, **options):
    """Runs main in a process of its own."""
    return command(
        "--dataset=folder", f"--data_dir={data}", f"--workdir={workdir}", *QUICK, *more, **options
    )


@pytest.fixture
def run_here(small_backbone, quick_views, capsys):
    """Runs main in this process, with a backbone that is quick to trace; as `run` otherwise."""

    def run_main(data, workdir, *more):
        arguments = [
            "--dataset=folder",
            f"--data_dir={data}",
            f"--workdir={workdir}",
            *QUICK,
            *more,
        ]
        capsys.readouterr()
        status = main.main(["main", *arguments])
        return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())

    return run_main


def scores(workdir, category="part", seed=0):
    lines = (workdir / category / f"seed_{seed}" / "scores.csv").read_text().splitlines()[1:]
    return np.array([float(line.split(",")[3]) for line in lines])


def test_good_images_only_leave_a_run_that_scores(run_here, tmp_path):
    data = make_mvtec(tmp_path / "data", good=0, bad=0)
    done = run_here(data, tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    assert "metrics will be null" in done.stdout
    run_dir = tmp_path / "runs" / "part" / "seed_0"
    results = json.loads((run_dir / "results.json").read_text())
    for name in ("image_auroc", "image_ap", "untrained_image_auroc"):
        assert results[name] is None
    assert (run_dir / "scores.csv").read_text() == "path,label,defect_type,score\n"
    from cutpaste_tf import Detector

    rng = np.random.default_rng(0)
    values = Detector.load(run_dir).score([pattern(rng), pattern(rng, 99)])
    assert values.shape == (2,)
    assert np.isfinite(values).all()


def test_a_name_that_is_not_utf8_stops_before_training(run_here, tmp_path):
    data = make_mvtec(tmp_path / "data", "part", train=4, good=2, bad=2)
    image = data / "part" / "test" / "hole" / "000.png"
    image.rename(image.with_name(os.fsdecode(b"caf\xe9.png")))
    done = run_here(data, tmp_path / "runs")
    assert_user_error(done, "caf\\udce9.png: its name is not UTF-8; rename it")
    assert not (tmp_path / "runs" / "part" / "seed_0" / "config.json").exists()


def test_a_folder_that_is_the_part_itself(run_here, tmp_path):
    data = make_mvtec(tmp_path, "bolt", train=4, good=1, bad=1)
    done = run_here(data / "bolt", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "bolt" / "seed_0" / "results.json").is_file()


def test_seeds_categories_and_skipping_what_is_finished_and_the_same_seed_twice(run_here, tmp_path):
    data = make_mvtec(tmp_path / "data", "anchor", train=4, good=2, bad=2)
    make_mvtec(data, "bolt", train=4, good=2, bad=2)
    first = run_here(data, tmp_path / "runs", "--seed=0,1")
    assert first.returncode == 0, first.stderr
    assert "step 6/6: loss " in first.stdout
    assert not set("\r\x1b") & set(first.stdout + first.stderr)  # readable in a log file
    found = sorted(
        str(p.parent.relative_to(tmp_path / "runs"))
        for p in (tmp_path / "runs").rglob("results.json")
    )
    assert found == ["anchor/seed_0", "anchor/seed_1", "bolt/seed_0", "bolt/seed_1"]
    assert first.stdout.splitlines()[-1].startswith("mean")
    lines = [line.split() for line in first.stdout.splitlines() if "(ensemble)" in line]
    assert [line[:2] for line in lines] == [["anchor", "all"], ["bolt", "all"]]
    for category, _, printed, _ in lines:
        labels, scores_of_both = run_folder.ensemble_scores(
            [tmp_path / "runs" / category / f"seed_{seed}" for seed in (0, 1)]
        )
        area = sklearn.metrics.roc_auc_score(labels, scores_of_both)
        assert float(printed) == pytest.approx(100 * area, abs=0.051)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*") if p.is_file()}
    began = time.perf_counter()
    again = run(data, tmp_path / "runs", "--seed=0,1")
    assert time.perf_counter() - began < 5  # nothing is loaded for nothing
    assert again.returncode == 0
    assert again.stdout.count("finished already, skipped") == 4
    assert again.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*") if p.is_file()}
    assert before == after

    # The same seed gives the same scores whatever ran before it; another gives others.
    assert run_here(data, tmp_path / "alone", "--category=bolt", "--seed=1").returncode == 0
    one, other = (scores(tmp_path / "runs", "bolt", seed) for seed in (1, 0))
    np.testing.assert_allclose(scores(tmp_path / "alone", "bolt", 1), one, rtol=1e-6)
    assert np.abs(one - other).max() > 1e-3 * np.abs(one).max()


def test_sigkill_in_stage_two_and_again_ends_with_the_same_weights(
    run_here, mvtec, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "EPOCH_STEPS", small.EPOCH_STEPS)
    # Stage two is two epochs, of 16 and 8 steps; the kill is in the second.
    flags = ("--steps=34", "--head_steps=10", "--finetune_steps=24", "--batch_size=2")
    whole = run_here(mvtec, tmp_path / "whole", *flags)
    assert whole.returncode == 0, whole.stderr
    environment = os.environ | {"KILL_AT_STEP": "30"}
    cut = run(mvtec, tmp_path / "cut", *flags, program=SMALL_MAIN, env=environment)
    assert cut.returncode == -signal.SIGKILL
    assert not (tmp_path / "cut" / "part" / "seed_0" / "results.json").exists()
    resumed = run_here(mvtec, tmp_path / "cut", *flags)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming at step 26 of 34" in resumed.stdout
    np.testing.assert_allclose(scores(tmp_path / "cut"), scores(tmp_path / "whole"), rtol=1e-4)

    models = []
    for name in ("whole", "cut"):
        run_dir = tmp_path / name / "part" / "seed_0"
        model = classifier.build_classifier(Config.load(run_dir))
        loop.load_weights(model, run_dir)
        models.append([w.numpy() for w in (*model.backbone.weights, *model.head.weights)])
    for one, other in zip(*models, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_kill_after_training_only_evaluates_again(run_here, mvtec, tmp_path):
    assert run_here(mvtec, tmp_path).returncode == 0
    run_dir = tmp_path / "part" / "seed_0"
    before = scores(tmp_path)
    for name in ("results.json", "density.npz", "scores.csv"):
        (run_dir / name).unlink()
    done = run_here(mvtec, tmp_path)
    assert done.returncode == 0
    assert "step 6/6" not in done.stdout
    np.testing.assert_allclose(scores(tmp_path), before, rtol=1e-6)
    assert json.loads((run_dir / "results.json").read_text())["train_seconds"] > 0


@pytest.mark.parametrize(
    "break_it",
    [
        lambda part: (part / "train/good/003.png").write_bytes(b"no image"),
        lambda part: (part / "test/hole/001.png").write_bytes(
            write_image(part / "x.png", pattern(np.random.default_rng(0), 200)).read_bytes()[:3000]
        ),
    ],
)
def test_a_broken_image_stops_before_training(run_here, mvtec, tmp_path, break_it):
    break_it(mvtec / "part")
    done = run_here(mvtec, tmp_path / "runs")
    name = (
        "003.png" if (mvtec / "part/train/good/003.png").read_bytes() == b"no image" else "001.png"
    )
    assert_user_error(done, name)
    assert "step" not in done.stdout
    assert not (tmp_path / "runs" / "part" / "seed_0" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("count", "told"),
    slow_but([(1, "images: 1"), (3, "images: 3"), (8, "all 8 normal")], (8, "all 8 normal")),
)
def test_too_few_different_images_stop_before_training(run_here, tmp_path, count, told):
    good = tmp_path / "data" / "part" / "train" / "good"
    rng = np.random.default_rng(0)
    for number in range(count):
        image = pattern(rng) if count < 8 else np.full([40, 40], 90, np.uint8)
        write_image(good / f"{number}.png", image)
    done = run_here(tmp_path / "data", tmp_path / "runs")
    assert_user_error(done, "--category=part", told, "at least 4 different ones are needed")
    assert "step" not in done.stdout
    run_dir = tmp_path / "runs" / "part" / "seed_0"
    assert {path.name for path in run_dir.iterdir()} == {"lock"}
    # With more of them the same command goes on.
    for number in range(4):
        write_image(good / f"more{number}.png", pattern(rng))
    assert run_here(tmp_path / "data", tmp_path / "runs").returncode == 0


@pytest.mark.parametrize(
    ("features", "told"), [(np.nan, "not finite"), (2.5, "the same but for rounding")]
)
def test_a_network_that_tells_nothing_leaves_no_detector(
    run_here, mvtec, tmp_path, monkeypatch, features, told
):
    embed = Embedder.__call__

    def ruined(self, images):
        return {name: np.full_like(x, features) for name, x in embed(self, images).items()}

    train = loop.train

    def train_to_ruin(*arguments):
        summary = train(*arguments)
        monkeypatch.setattr(Embedder, "__call__", ruined)
        return summary

    monkeypatch.setattr(loop, "train", train_to_ruin)
    done = run_here(mvtec, tmp_path, "--eval_every=0")
    assert_user_error(done, told, "did the training diverge?")
    names = {path.name for path in (tmp_path / "part" / "seed_0").iterdir()}
    assert names == {"config.json", "images.json", "checkpoints", "tensorboard", "lock"}


def test_no_images_to_train_on(run_here, tmp_path):
    (tmp_path / "part" / "train" / "good").mkdir(parents=True)
    assert_user_error(run_here(tmp_path, tmp_path / "runs"), "train/good", "no images to train on")


def test_a_missing_data_folder(tmp_path):
    done = run(tmp_path / "nowhere", tmp_path / "runs")
    assert_user_error(done, "--data_dir", "nowhere")
    assert not (tmp_path / "runs").exists()


def test_missing_mvtec_ad_says_where_to_get_it(run_here, tmp_path):
    done = run_here(tmp_path, tmp_path / "runs", "--dataset=mvtec_ad")
    assert_user_error(done, "https://www.mvtec.com")


def test_other_settings_in_the_same_folder_are_refused_and_nothing_is_lost(
    run_here, mvtec, tmp_path
):
    assert run_here(mvtec, tmp_path).returncode == 0
    before = (tmp_path / "part/seed_0/results.json").read_text()
    assert_user_error(run_here(mvtec, tmp_path, "--steps=7"), "--steps=6, not --steps=7; name")
    assert (tmp_path / "part/seed_0/results.json").read_text() == before


@pytest.mark.parametrize("workdir", ["/proc/nope", "{tmp}/file/inside"])
def test_a_work_directory_that_cannot_be_written(run_here, mvtec, tmp_path, workdir):
    (tmp_path / "file").write_text("x")
    done = run_here(mvtec, workdir.format(tmp=tmp_path))
    assert_user_error(done, "--workdir=", "cannot be written")


def _limit_file_size():
    # Writing past the limit fails with an error instead of a signal: the same as a full disk.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


def test_a_full_disk_is_told_in_one_line_and_the_run_goes_on_later(run_here, mvtec, tmp_path):
    wide = ("--head_dims=1024,64",)  # weights of more than the limit
    done = run(mvtec, tmp_path, *wide, program=SMALL_MAIN, preexec_fn=_limit_file_size)
    assert_user_error(done, "cannot be written")
    assert "HDF5" not in done.stderr
    assert "h5py" not in done.stderr
    assert not (tmp_path / "part/seed_0/results.json").exists()
    again = run_here(mvtec, tmp_path, *wide)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "part/seed_0/results.json").is_file()


@pytest.mark.parametrize(
    ("weights", "part"), [("imagenet", "could not be fetched"), ("{tmp}/no.keras", "no such file")]
)
def test_weights_that_cannot_be_had_leave_nothing_that_blocks_the_next_start(
    mvtec, tmp_path, capsys, monkeypatch, weights, part
):
    from keras.src.applications import efficientnet

    monkeypatch.setattr(efficientnet, "BASE_WEIGHTS_PATH", f"file://{tmp_path}/nowhere/")
    status = main.main(
        [
            "main", "--dataset=folder", f"--data_dir={mvtec}", f"--workdir={tmp_path / 'runs'}",
            "--image_size=32", "--backbone=efficientnet_b0",
            f"--weights={weights.format(tmp=tmp_path)}",
        ]
    )  # fmt: skip
    done = subprocess.CompletedProcess([], status, *capsys.readouterr())
    assert_user_error(done, "--weights=", part)
    assert [path.name for path in (tmp_path / "runs").rglob("*") if path.is_file()] == ["lock"]


@pytest.mark.slow
def test_two_stages_of_efficientnet_give_all_columns_of_table_3(mvtec, tmp_path, capsys):
    arguments = [
        "main", "--dataset=folder", f"--data_dir={mvtec}", f"--workdir={tmp_path / 'runs'}",
        "--image_size=32", "--backbone=efficientnet_b0", "--batch_size=2", "--head_steps=1",
        "--finetune_steps=1", "--features=level7",
    ]  # fmt: skip
    backbone = train_backbone(tmp_path / "b0.weights.h5")
    assert main.main([*arguments, f"--weights={tmp_path / 'b0.weights.h5'}"]) == 0
    run_dir = tmp_path / "runs/part/seed_0"
    results = json.loads((run_dir / "results.json").read_text())
    table = results["image_auroc_by_feature"]
    assert set(table) == {"pool", "level7", "level8"}
    for name in table:
        assert set(table[name]) == {"pretrained", "finetuned"}
    assert results["steps"] == 2
    assert results["image_auroc"] == table["level7"]["finetuned"]
    assert results["untrained_image_auroc"] == table["level7"]["pretrained"]

    # The pretrained columns, by hand; and a run that only evaluates has no others.
    assert "pretrained" in capsys.readouterr().out
    from cutpaste_tf.data import folder, pipeline
    from cutpaste_tf.scoring.detector import Detector, Evaluator

    part = folder.load(mvtec / "part")
    images = [pipeline.prepare(split, 32) for split in (part.train, part.test)]
    settings = Config.from_json((run_dir / "config.json").read_text())
    by_hand = Evaluator(settings, backbone)(*images)
    for name in table:
        auroc = metrics.image_auroc(part.test.labels, by_hand[name].scores)
        assert table[name]["pretrained"] == pytest.approx(auroc)
    detector = Detector.load(run_dir)
    assert detector.density.mean.shape == (192,)  # channels of B0's block 6
    np.testing.assert_allclose(
        detector.score(list(part.test.images)), scores(tmp_path / "runs"), rtol=1e-4
    )


def train_backbone(path):
    from cutpaste_tf.models.efficientnet import efficientnet

    backbone = efficientnet("efficientnet_b0", 32, seed=7)
    backbone.save_weights(path)
    return backbone


def test_synthetic_tests_are_added_to_a_finished_run_without_training_it_again(
    run_here, mvtec, tmp_path, monkeypatch
):
    from cutpaste_tf.data import download, synthetic

    monkeypatch.setattr(download, "is_reachable", lambda server: False)
    assert run_here(mvtec, tmp_path).returncode == 0
    path = tmp_path / "part/seed_0/results.json"
    first = json.loads(path.read_text())
    assert "image_auroc_by_test_anomalies" not in first
    for flag, kinds in (
        ("heart,mnist", ["mnist", "heart"]),
        ("square", ["mnist", "square", "heart"]),
    ):
        done = run_here(mvtec, tmp_path, f"--test_anomalies={flag}")
        assert done.returncode == 0, done.stderr
        assert "step 6/6" not in done.stdout
        results = json.loads(path.read_text())
        for name in ("image_auroc", "untrained_image_auroc"):
            assert list(results[f"{name}_by_test_anomalies"]) == kinds
            assert results[name] == first[name]
        assert results["test_anomalies_digits"] == synthetic.SMALL_DIGITS
        for kind in kinds:
            value = 100 * results["image_auroc_by_test_anomalies"][kind]
            assert f"test anomalies {kind}: image AUROC {value:.1f}" in done.stdout
    # All that is asked for is there.
    for flag in ("none", "mnist", "heart,square"):
        assert "finished already" in run_here(mvtec, tmp_path, f"--test_anomalies={flag}").stdout
    assert_user_error(
        run_here(mvtec, tmp_path, "--test_anomalies=star"), "--test_anomalies=star: must be none"
    )
    none = make_mvtec(tmp_path / "bare", good=0, bad=0)
    done = run_here(none, tmp_path / "other", "--test_anomalies=all")
    assert_user_error(done, "made of normal test images, and there are none")


def test_several_densities_are_of_the_same_features(run_here, mvtec, tmp_path):
    assert run_here(mvtec, tmp_path).returncode == 0
    path = tmp_path / "part/seed_0/results.json"
    first, scored = json.loads(path.read_text()), scores(tmp_path)
    assert "image_auroc_by_density" not in first
    done = run_here(mvtec, tmp_path, "--density=gde,kde,gmm,gmm2")
    assert done.returncode == 0, done.stderr
    assert "step 6/6" not in done.stdout  # nothing is trained again
    results = json.loads(path.read_text())
    found = results["image_auroc_by_density"]
    assert list(found) == ["gde", "kde", "gmm", "gmm2"]
    assert found["gde"] == results["image_auroc"] == first["image_auroc"]
    np.testing.assert_allclose(scores(tmp_path), scored, rtol=1e-6)
    for kind, auroc in found.items():
        assert f"density {kind}: image AUROC {100 * auroc:.1f}" in done.stdout
    assert "finished already" in run_here(mvtec, tmp_path, "--density=gde,gmm").stdout
    # A run of its own gives the same number.
    assert run_here(mvtec, tmp_path / "alone", "--density=gmm2").returncode == 0
    alone = json.loads((tmp_path / "alone" / "part/seed_0/results.json").read_text())
    assert alone["image_auroc"] == pytest.approx(found["gmm2"])
    # What the run's scores are of cannot be changed in place.
    assert_user_error(run_here(mvtec, tmp_path, "--density=kde,gde"), "--density=gde", "--workdir")
    assert_user_error(run_here(mvtec, tmp_path, "--density=gde,gde"), "--density=gde,gde: must be")
    few = run_here(mvtec, tmp_path / "few", "--density=gde,gmm32")
    assert_user_error(few, "--density=gmm32: needs 64 normal training images", "there are")


def test_evaluating_only_fills_no_column_of_a_training(run_here, mvtec, tmp_path):
    done = run_here(mvtec, tmp_path, "--steps=0")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "part/seed_0/results.json").read_text())
    assert set(results["image_auroc_by_feature"]["pool"]) == {"untrained"}
    assert results["image_auroc"] == results["untrained_image_auroc"]
    assert results["train_seconds"] == 0


def test_without_a_rate_there_is_no_threshold_and_no_cross_validation(
    run_here, mvtec, tmp_path, monkeypatch
):
    def never(*arguments):
        raise AssertionError("cross-validated")

    monkeypatch.setattr(Evaluator, "normal_scores", never)
    done = run_here(mvtec, tmp_path, "--false_positive_rate=0")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "part/seed_0/results.json").read_text())
    assert (results["threshold"], results["num_normal_scores"]) == (None, 0)
    assert results["image_auroc"] is not None
    with pytest.raises(UserError, match="no scores of normal images"):
        run_folder.choose_threshold(tmp_path / "part/seed_0")


def test_another_keras_backend_is_refused(mvtec, tmp_path):
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    assert_user_error(run(mvtec, tmp_path, env=environment), "KERAS_BACKEND=jax")


@pytest.mark.slow
def test_ctrl_c_says_that_it_can_be_resumed(mvtec, tmp_path):
    process = subprocess.Popen(
        [*SMALL_MAIN, "--dataset=folder", f"--data_dir={mvtec}", f"--workdir={tmp_path}", *QUICK,
         "--steps=100000"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell has what it starts in the background ignore the signal, the tests included.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    for line in process.stdout:
        if "step" in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted; start again to resume"
    assert "Traceback" not in errors


@pytest.mark.parametrize("density", ["gmm", pytest.param("kde", marks=pytest.mark.slow)])
def test_other_densities_work_end_to_end(run_here, tmp_path, density):
    data = make_mvtec(tmp_path / "data")
    done = run_here(data, tmp_path / "runs", f"--density={density}")
    assert done.returncode == 0, done.stderr
    from cutpaste_tf import Detector

    assert Detector.load(tmp_path / "runs/part/seed_0").density.kind == density


@pytest.mark.slow
@pytest.mark.skipif(
    not (SHARED_DATA / "magnetic_tile").is_dir(), reason="the magnetic tile data set is not here"
)
def test_training_raises_the_auroc_on_magnetic_tiles(tmp_path):
    done = command_long(
        "--dataset=folder", f"--data_dir={SHARED_DATA}", "--category=magnetic_tile",
        "--image_size=64", "--width=0.25", "--head_dims=128", "--batch_size=16",
        "--steps=1600",
        f"--workdir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "magnetic_tile/seed_0/results.json").read_text())
    assert results["image_auroc"] > results["untrained_image_auroc"] + 0.08


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least", "gained"), [("demo", 0.85, -0.02), ("resnet18_demo", 0.76, 0.04)]
)
def test_the_demos_tell_broken_cells_from_others(tmp_path, name, least, gained):
    pytest.importorskip("elpv_dataset", reason="the extra demo is not installed")
    done = command_long(f"--flagfile=experiments/{name}.flags", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    (file,) = pathlib.Path(tmp_path).rglob("results.json")
    results = json.loads(file.read_text())
    assert results["image_auroc"] > least
    assert results["image_auroc"] > results["untrained_image_auroc"] + gained


def command_long(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "cutpaste_tf.main", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip


def test_twelve_bits_in_sixteen_are_as_bright_as_eight(run_here, tmp_path):
    """The same set with 8 bits and with 12 in files of 16 gets the same scores, also later."""
    dark, bright = (tmp_path / name for name in ("dark", "bright"))
    make_mvtec(bright, train=6, good=2, bad=2)
    for path in sorted(bright.rglob("*.png")):
        pixels = np.asarray(Image.open(path).convert("L"))
        Image.fromarray(pixels).save(path)
        if "ground_truth" not in path.parts:
            pixels = pixels.astype(np.uint16) << 4
            pixels[0, 0] = 255 << 4  # all of 12 bits are filled
            Image.fromarray((pixels >> 4).astype(np.uint8)).save(path)
        target = dark / path.relative_to(bright)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(target)
    scores = []
    for data in (dark, bright):
        done = run_here(data, tmp_path / f"{data.name}_runs", "--steps=0")
        assert done.returncode == 0, done.stderr
        run_dir = tmp_path / f"{data.name}_runs" / "part" / "seed_0"
        scores.append([row["score"] for row in read_scores(run_dir)])
        assert json.loads((run_dir / "results.json").read_text())["bit_depth"] == (
            12 if data == dark else 16
        )
    assert scores[0] == scores[1]
    from cutpaste_tf import Detector

    files = sorted(str(path) for path in (dark / "part" / "test").rglob("*.png"))
    found = Detector.load(tmp_path / "dark_runs" / "part" / "seed_0").score(files)
    np.testing.assert_allclose(found, np.array(scores[0], np.float64), rtol=1e-5)


def write_photographs(root):
    """A folder of images of several shapes with masks, and a region of interest."""
    rng = np.random.default_rng(0)
    sizes = [(60, 90), (90, 60), (70, 70)]

    def photograph(i):
        height, width = sizes[i % 3]
        return pattern(rng, 90)[:height, :width].copy()

    part = root / "data" / "part"
    for i in range(9):
        write_image(part / "train" / "good" / f"{i}.png", photograph(i))
    for i in range(3):
        write_image(part / "test" / "good" / f"{i}.png", photograph(i))
        image = photograph(i)
        mask = np.zeros(image.shape[:2], np.uint8)
        image[20:35, 20:40], mask[20:35, 20:40] = rng.integers(0, 256, (15, 20, 3)), 255
        write_image(part / "test" / "hole" / f"{i}.png", image)
        write_image(part / "ground_truth" / "hole" / f"{i}_mask.png", mask)
    roi = np.zeros([30, 30], np.uint8)
    roi[4:24, 3:25] = 255
    return root / "data", write_image(root / "roi.png", roi)


@pytest.fixture
def staged_backbone(monkeypatch):
    """Convolutions by the names of a ResNet-18's stages; figures are drawn."""
    from cutpaste_tf.models import backbone

    def build(settings, *, initial_weights=True):
        return small.staged_backbone(settings.size)

    monkeypatch.setattr(backbone, "build_backbone", build)


SHAPES = {
    "tiles": ("--tiles=2x2", "--resize=pad", "--maps=features", "--map_levels=conv2,conv3"),
    "tiles without maps": ("--tiles=1x2",),
    "a region": ("--resize=squash", "--maps=gradcam"),
}


@pytest.mark.parametrize("shape", slow_but(list(SHAPES), "tiles", "a region"))
def test_predictions_of_images_of_any_shape_are_the_runs_scores(
    shape, staged_backbone, quick_views, tmp_path, capsys
):
    from cutpaste_tf.predict import __main__ as predict
    from cutpaste_tf.scoring.detector import Detector

    data, roi = write_photographs(tmp_path)
    flags = [*QUICK, "--image_size=32x48", f"--roi={roi}", *SHAPES[shape]]
    where = ["--dataset=folder", f"--data_dir={data}", f"--workdir={tmp_path / 'runs'}"]
    assert main.main(["main", *where, *flags]) == 0
    run_dir = tmp_path / "runs" / "part" / "seed_0"
    assert "region of interest: 49% of the image" in capsys.readouterr().out
    results = json.loads((run_dir / "results.json").read_text())
    assert len(run_folder.read_normal_scores(run_dir)) == 9
    made = "maps" in " ".join(flags)
    for name in ("pixel_auroc", "pixel_aupro", "untrained_pixel_auroc"):
        assert (results[name] is not None) == made
    assert {"augmentations.png", "most_and_least_anomalous.png"} <= {
        path.name for path in (run_dir / "figures").iterdir()
    }
    assert main.main(["main", *where, *flags]) == 0
    assert "finished already" in capsys.readouterr().out

    # Where the region's file was the run does not care.
    roi.unlink()
    output = tmp_path / "out"
    arguments = [f"--run={run_dir}", f"--images={data / 'part' / 'test'}", f"--output={output}"]
    assert predict.main(["predict", *arguments, *(["--maps"] if made else [])]) == 0
    rows = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(
        [row["score"] for row in rows], scores(tmp_path / "runs"), rtol=1e-4, atol=1e-4
    )
    for row in rows if made else ():
        with Image.open(row["path"]) as image, Image.open(row["map"]) as overlay:
            assert overlay.size == image.size
            size = image.size[::-1]
        own = np.load(row["map"].removesuffix(".png") + ".npy")
        preparation = Detector.load(run_dir).preparation
        assert preparation.roi.shape == (30, 30)
        if preparation.resize == "squash":
            assert own.shape == preparation.canvas
            size = own.shape
        assert own.shape == size
        region = preparation.own_region(*size)
        # To the pixel of the canvas.
        near = scipy.ndimage.binary_dilation(region, np.ones([3, 3]), iterations=2)
        assert not own[~near].any()
        assert own[region].any() or "--maps=gradcam" in flags
    (run_dir / "roi.png").unlink()
    with pytest.raises(UserError, match=r"roi\.png: cannot be read"):
        Detector.load(run_dir)


def test_a_background_that_is_not_found_leaves_everything_to_look_at(run_here, mvtec, tmp_path):
    done = run_here(mvtec, tmp_path / "runs", "--roi=auto")
    assert done.returncode == 0, done.stderr
    assert "region of interest: no fixed background was found" in done.stdout
    plain = run_here(mvtec, tmp_path / "plain")
    assert plain.returncode == 0, plain.stderr
    assert scores(tmp_path / "runs").shape == scores(tmp_path / "plain").shape


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (None, "there is no such file"),
        ([], "is black all over"),
        ([(0, 0)], "8 of 8 normal training images show nothing of it at --image_size=32"),
    ],
)
def test_a_region_that_cannot_be_is_one_line_and_can_be_mended(
    pixels, message, run_here, mvtec, tmp_path
):
    path, mask = tmp_path / "roi.png", np.zeros([99, 99], np.uint8)
    for pixel in pixels or ():
        mask[pixel] = 255
    if pixels is not None:
        write_image(path, mask)
    done = run_here(mvtec, tmp_path / "runs", f"--roi={path}")
    assert_user_error(done, f"--roi={path}: {message}")
    assert "step" not in done.stdout
    write_image(path, 255 - mask)
    done = run_here(mvtec, tmp_path / "runs", f"--roi={path}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "part" / "seed_0" / "results.json").is_file()


def test_a_run_of_copies_is_the_run_without_them_in_the_natural_order_of_names(run_here, tmp_path):
    make_mvtec(tmp_path / "data", train=12)
    good = tmp_path / "data" / "part" / "train" / "good"
    alone = run_here(tmp_path / "data", tmp_path / "alone", "--steps=0")
    for number, path in enumerate(sorted(good.iterdir())):
        path.rename(good / f"img_{number}.png")  # of which the tenth is before the second
    for number in (0, 1, 7):
        Image.open(good / f"img_{number}.png").save(good / f"see_{number}.bmp")
    Image.open(good / "img_3.png").save(tmp_path / "data/part/test/hole/9.tiff")
    copied = run_here(tmp_path / "data", tmp_path / "copied", "--steps=0")
    assert (alone.returncode, copied.returncode) == (0, 0)
    assert alone.stderr == ""
    assert copied.stderr.splitlines() == [
        "warning: 3 of 15 training images are copies, such as train/good/see_0.bmp of "
        "train/good/img_0.png; each image counts once",
        "warning: 1 of 9 test images are training images too, such as test/hole/9.tiff, which is "
        "train/good/img_3.png; what is measured on them tells nothing of new images",
    ]
    folders = [tmp_path / name / "part" / "seed_0" for name in ("alone", "copied")]
    assert (folders[0] / "density.npz").read_bytes() == (folders[1] / "density.npz").read_bytes()
    scores = [run_folder.read_normal_scores(folder) for folder in folders]
    np.testing.assert_array_equal(*scores)
    results = [run_folder.read_results(folder) for folder in folders]
    assert [one["num_train"] for one in results] == [12, 15]
    for name in ("threshold", "num_normal_scores"):
        assert results[0][name] == results[1][name]
