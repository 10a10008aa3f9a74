"""The command line, as a user meets it."""

import json
import os
import resource
import signal
import subprocess

import numpy as np
import pytest
import scipy.ndimage
import sklearn.metrics
import small
from conftest import (
    MAIN,
    QUICK,
    ROOT,
    SHARED_DATA,
    SMALL_MAIN,
    assert_user_error,
    call,
    command,
    make_mvtec,
    pattern,
    read_scores,
    slow_but,
    write_image,
)
from PIL import Image

from cutpaste_tf import Detector, main, run_folder
from cutpaste_tf.config import Config
from cutpaste_tf.data import download, synthetic
from cutpaste_tf.files import UserError
from cutpaste_tf.predict import __main__ as predict
from cutpaste_tf.scoring import metrics
from cutpaste_tf.scoring.detector import make_scorer
from cutpaste_tf.scoring.scorer import Scorer, evaluate
from cutpaste_tf.train import classifier, loop


def run(data, workdir, *more, **options):
    """Runs main in a process of its own."""
    return command(
        "--dataset=folder", f"--data_dir={data}", f"--workdir={workdir}", *QUICK, *more, **options
    )


@pytest.fixture
def run_here(small_backbone, quick_views, capsys):
    """Runs main in this process, with a backbone that is quick to trace; asserts its status."""

    def run_main(data, workdir, *more, status=0):
        where = ["--dataset=folder", f"--data_dir={data}", f"--workdir={workdir}"]
        done = call(capsys, main.main, *where, *QUICK, *more)
        assert done.returncode == status, done.stderr
        return done

    return run_main


def run_dir_of(workdir, category="part", seed=0):
    return workdir / category / f"seed_{seed}"


def results_of(workdir):
    return json.loads((run_dir_of(workdir) / "results.json").read_text())


def scores(workdir, *run):
    return np.array([float(row["score"]) for row in read_scores(run_dir_of(workdir, *run))])


def test_good_images_only_leave_a_run_that_scores(run_here, tmp_path):
    data = make_mvtec(tmp_path / "data", good=0, bad=0)
    done = run_here(data, tmp_path)
    assert "metrics will be null" in done.stdout
    results = results_of(tmp_path)
    assert results["image_auroc"] is results["image_ap"] is results["untrained_image_auroc"] is None
    assert read_scores(run_dir_of(tmp_path)) == []
    rng = np.random.default_rng(0)
    values = Detector.load(run_dir_of(tmp_path)).score([pattern(rng), pattern(rng, 99)])
    assert values.shape == (2,)
    assert np.isfinite(values).all()


def test_seeds_categories_and_skipping_what_is_finished_and_the_same_seed_twice(run_here, tmp_path):
    data = make_mvtec(tmp_path / "data", "anchor", train=4, good=2, bad=2)
    make_mvtec(data, "bolt", train=4, good=2, bad=2)
    workdir = tmp_path / "runs"
    first = run_here(data, workdir, "--seed=0,1")
    assert "step 6/6: loss " in first.stdout
    assert not set("\r\x1b") & set(first.stdout + first.stderr)  # readable in a log file
    finished = sorted(str(p.parent.relative_to(workdir)) for p in workdir.rglob("results.json"))
    assert finished == ["anchor/seed_0", "anchor/seed_1", "bolt/seed_0", "bolt/seed_1"]
    for folder in finished:
        assert list((workdir / folder / "tensorboard").rglob("events.*"))
    assert first.stdout.splitlines()[-1].startswith("mean")
    lines = [line.split() for line in first.stdout.splitlines() if "(ensemble)" in line]
    assert [line[:2] for line in lines] == [["anchor", "all"], ["bolt", "all"]]
    for category, _, printed, _ in lines:
        run_dirs = [run_dir_of(workdir, category, seed) for seed in (0, 1)]
        area = sklearn.metrics.roc_auc_score(*run_folder.ensemble_scores(run_dirs))
        assert float(printed) == pytest.approx(100 * area, abs=0.051)

    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}
    again = run(data, workdir, "--seed=0,1")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished already, skipped") == 4
    assert again.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]
    assert before == {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}

    # The same seed gives the same scores whatever ran before it; another gives others.
    run_here(data, tmp_path / "alone", "--category=bolt", "--seed=1")
    one, other = (scores(workdir, "bolt", seed) for seed in (1, 0))
    np.testing.assert_allclose(scores(tmp_path / "alone", "bolt", 1), one, rtol=1e-6)
    assert np.abs(one - other).max() > 1e-3 * np.abs(one).max()


def test_sigkill_in_stage_two_and_again_ends_with_the_same_weights(
    run_here, mvtec, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "EPOCH_STEPS", small.EPOCH_STEPS)
    # Stage two is two epochs, of 16 and 8 steps; the kill is in the second.
    flags = ("--steps=34", "--head_steps=10", "--finetune_steps=24", "--batch_size=2")
    run_here(mvtec, tmp_path / "whole", *flags)
    killed = {"program": SMALL_MAIN, "env": os.environ | {"KILL_AT_STEP": "30"}}
    assert run(mvtec, tmp_path / "cut", *flags, **killed).returncode == -signal.SIGKILL
    assert not (run_dir_of(tmp_path / "cut") / "results.json").exists()
    resumed = run_here(mvtec, tmp_path / "cut", *flags)
    assert "resuming at step 26 of 34" in resumed.stdout
    np.testing.assert_allclose(scores(tmp_path / "cut"), scores(tmp_path / "whole"), rtol=1e-4)

    models = []
    for name in ("whole", "cut"):
        run_dir = run_dir_of(tmp_path / name)
        model = classifier.build_classifier(Config.load(run_dir))
        loop.load_weights(model, run_dir)
        models.append([w.numpy() for w in (*model.backbone.weights, *model.head.weights)])
    for one, other in zip(*models, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_kill_after_training_only_evaluates_again_and_other_settings_are_refused(
    run_here, mvtec, tmp_path
):
    run_here(mvtec, tmp_path)
    before = scores(tmp_path)
    for name in ("results.json", "density.npz", "scores.csv"):
        (run_dir_of(tmp_path) / name).unlink()
    done = run_here(mvtec, tmp_path)
    assert "step 6/6" not in done.stdout
    np.testing.assert_allclose(scores(tmp_path), before, rtol=1e-6)
    results = results_of(tmp_path)
    assert results["train_seconds"] > 0
    assert_user_error(
        run_here(mvtec, tmp_path, "--steps=7", status=2), "--steps=6, not --steps=7; name"
    )
    assert results_of(tmp_path) == results


def cut_image(part):
    image = part / "test" / "hole" / "001.png"
    image.write_bytes(image.read_bytes()[:1000])


def rename_image(part):
    image = part / "test" / "hole" / "000.png"
    image.rename(image.with_name(os.fsdecode(b"caf\xe9.png")))


@pytest.mark.parametrize(
    ("spoil", "flags", "parts"),
    [
        (lambda part: part.parent.rename(part.parents[1] / "x"), (), ["--data_dir", "data"]),
        (lambda part: None, ["--dataset=mvtec_ad"], ["https://www.mvtec.com"]),
        (rename_image, (), ["caf\\udce9.png: its name is not UTF-8; rename it"]),
        (lambda part: (part / "train/good/003.png").write_bytes(b"no image"), (), ["003.png"]),
        (cut_image, (), ["001.png"]),
    ],
)
def test_what_is_wrong_with_the_images_is_told_before_training(
    run_here, mvtec, tmp_path, spoil, flags, parts
):
    spoil(mvtec / "part")
    done = run_here(mvtec, tmp_path / "runs", *flags, status=2)
    assert_user_error(done, *parts)
    assert "step" not in done.stdout
    assert not list((tmp_path / "runs").rglob("checkpoints"))


def test_too_few_different_images_stop_before_training(run_here, tmp_path):
    good = tmp_path / "data" / "part" / "train" / "good"
    rng = np.random.default_rng(0)
    for number in range(8):
        write_image(good / f"{number}.png", np.full([40, 40], 90, np.uint8))
    done = run_here(tmp_path / "data", tmp_path, status=2)
    needed = "at least 4 different ones are needed"
    assert_user_error(done, "--category=part", "all 8 normal", needed)
    assert "step" not in done.stdout
    assert {path.name for path in run_dir_of(tmp_path).iterdir()} == {"lock"}
    # With more of them the same command goes on.
    for number in range(4):
        write_image(good / f"more{number}.png", pattern(rng))
    run_here(tmp_path / "data", tmp_path)


@pytest.mark.parametrize(
    ("features", "message"), [(np.nan, "not finite"), (2.5, "the same but for rounding")]
)
def test_a_network_that_tells_nothing_leaves_no_detector(
    run_here, mvtec, tmp_path, monkeypatch, features, message
):
    embedded, train = Scorer.embedded, loop.train

    def ruined(self, *arguments):
        for batch in embedded(self, *arguments):
            yield {name: np.full_like(x, features) for name, x in batch.items()}

    def train_to_ruin(*arguments):
        summary = train(*arguments)
        monkeypatch.setattr(Scorer, "embedded", ruined)
        return summary

    monkeypatch.setattr(loop, "train", train_to_ruin)
    done = run_here(mvtec, tmp_path, "--eval_every=0", status=2)
    assert_user_error(done, message, "did the training diverge?")
    names = {path.name for path in run_dir_of(tmp_path).iterdir()}
    assert names == {"config.json", "images.json", "checkpoints", "tensorboard", "lock"}


@pytest.mark.parametrize("workdir", ["/proc/nope", "{tmp}/file/inside"])
def test_a_work_directory_that_cannot_be_written(run_here, mvtec, tmp_path, workdir):
    (tmp_path / "file").write_text("x")
    done = run_here(mvtec, workdir.format(tmp=tmp_path), status=2)
    assert_user_error(done, "--workdir=", "cannot be written")


def _limit_file_size():
    # Writing past the limit fails with an error instead of a signal: the same as a full disk.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


def test_a_full_disk_is_told_in_one_line_and_the_run_goes_on_later(run_here, mvtec, tmp_path):
    wide = ("--head_dims=1024,64",)  # weights of more than the limit
    done = run(mvtec, tmp_path, *wide, program=SMALL_MAIN, preexec_fn=_limit_file_size)
    assert_user_error(done, f"--workdir={tmp_path}: cannot be written")
    assert "HDF5" not in done.stderr
    assert "h5py" not in done.stderr
    assert not (run_dir_of(tmp_path) / "results.json").exists()
    run_here(mvtec, tmp_path, *wide)
    assert (run_dir_of(tmp_path) / "results.json").is_file()


@pytest.mark.parametrize(
    ("weights", "part"), [("imagenet", "could not be fetched"), ("{tmp}/no.keras", "no such file")]
)
def test_weights_that_cannot_be_had_leave_nothing_that_blocks_the_next_start(
    mvtec, tmp_path, capsys, monkeypatch, weights, part
):
    from keras.src.applications import efficientnet

    monkeypatch.setattr(efficientnet, "BASE_WEIGHTS_PATH", f"file://{tmp_path}/nowhere/")
    weights = weights.format(tmp=tmp_path)
    flags = {"image_size": 32, "backbone": "efficientnet_b0", "weights": weights}
    flags |= {"dataset": "folder", "data_dir": mvtec, "workdir": tmp_path / "runs"}
    done = call(capsys, main.main, **flags)
    assert_user_error(done, f"--weights={weights}", part)
    assert [path.name for path in (tmp_path / "runs").rglob("*") if path.is_file()] == ["lock"]


@pytest.mark.slow
def test_two_stages_of_efficientnet_give_all_columns_of_table_3(mvtec, tmp_path):
    from cutpaste_tf.data import folder, pipeline
    from cutpaste_tf.models.efficientnet import efficientnet

    backbone = efficientnet("efficientnet_b0", 32, seed=7)
    backbone.save_weights(tmp_path / "b0.weights.h5")
    arguments = [
        "main", "--dataset=folder", f"--data_dir={mvtec}", f"--workdir={tmp_path}",
        "--image_size=32", "--backbone=efficientnet_b0", "--batch_size=2", "--head_steps=1",
        "--finetune_steps=1", "--features=level7", f"--weights={tmp_path / 'b0.weights.h5'}",
    ]  # fmt: skip
    assert main.main(arguments) == 0
    results = results_of(tmp_path)
    table = results["image_auroc_by_feature"]
    assert set(table) == {"pool", "level7", "level8"}
    assert results["steps"] == 2
    assert results["image_auroc"] == table["level7"]["finetuned"]
    assert results["untrained_image_auroc"] == table["level7"]["pretrained"]

    # The pretrained columns, by hand.
    part = folder.load(mvtec / "part")
    images = [pipeline.prepare(split, 32) for split in (part.train, part.test)]
    by_hand = evaluate(make_scorer(Config.load(run_dir_of(tmp_path)), backbone), *images)
    for name, columns in table.items():
        assert set(columns) == {"pretrained", "finetuned"}
        auroc = metrics.image_auroc(part.test.labels, by_hand.pooled[name])
        assert columns["pretrained"] == pytest.approx(auroc)
    detector = Detector.load(run_dir_of(tmp_path))
    found = detector.score(list(part.test.images))
    np.testing.assert_allclose(found, scores(tmp_path), rtol=1e-4)


def test_synthetic_tests_are_added_to_a_finished_run_without_training_it_again(
    run_here, mvtec, tmp_path, monkeypatch
):
    monkeypatch.setattr(download, "is_reachable", lambda server: False)
    run_here(mvtec, tmp_path)
    first = results_of(tmp_path)
    assert "image_auroc_by_test_anomalies" not in first
    for flag, kinds in (
        ("heart,mnist", ["mnist", "heart"]),
        ("square", ["mnist", "square", "heart"]),
    ):
        done = run_here(mvtec, tmp_path, f"--test_anomalies={flag}")
        assert "step 6/6" not in done.stdout
        results = results_of(tmp_path)
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
    none = make_mvtec(tmp_path / "bare", good=0, bad=0)
    done = run_here(none, tmp_path / "other", "--test_anomalies=all", status=2)
    assert_user_error(done, "needs normal test images, and there are none")


@pytest.mark.slow
def test_several_densities_are_of_the_same_features(run_here, mvtec, tmp_path):
    run_here(mvtec, tmp_path)
    first, scored = results_of(tmp_path), scores(tmp_path)
    assert "image_auroc_by_density" not in first
    done = run_here(mvtec, tmp_path, "--density=gde,kde,gmm")
    assert "step 6/6" not in done.stdout  # nothing is trained again
    results = results_of(tmp_path)
    aurocs = results["image_auroc_by_density"]
    assert list(aurocs) == ["gde", "kde", "gmm"]
    assert aurocs["gde"] == results["image_auroc"] == first["image_auroc"]
    np.testing.assert_allclose(scores(tmp_path), scored, rtol=1e-6)
    for kind, auroc in aurocs.items():
        assert f"density {kind}: image AUROC {100 * auroc:.1f}" in done.stdout
    assert "finished already" in run_here(mvtec, tmp_path, "--density=gde,gmm").stdout
    # A run of its own gives the same number.
    for kind in ("kde", "gmm"):
        run_here(mvtec, tmp_path / kind, f"--density={kind}")
        assert results_of(tmp_path / kind)["image_auroc"] == pytest.approx(aurocs[kind])
    # The density that makes the run's scores cannot be changed in place.
    assert_user_error(
        run_here(mvtec, tmp_path, "--density=kde,gde", status=2), "--density=gde", "--workdir"
    )


def test_evaluating_only_fills_no_column_of_a_training_and_without_a_rate_no_threshold(
    run_here, mvtec, tmp_path
):
    done = run_here(mvtec, tmp_path, "--steps=0", "--false_positive_rate=0", "--roi=auto")
    assert "region of interest: no fixed background was found" in done.stdout
    results = results_of(tmp_path)
    assert set(results["image_auroc_by_feature"]["pool"]) == {"untrained"}
    assert results["image_auroc"] == results["untrained_image_auroc"] is not None
    assert results["train_seconds"] == 0
    assert (results["threshold"], results["num_normal_scores"]) == (None, 0)
    with pytest.raises(UserError, match="no scores of normal images"):
        run_folder.choose_threshold(run_dir_of(tmp_path))


@pytest.mark.slow
def test_ctrl_c_says_that_it_can_be_resumed(mvtec, tmp_path):
    flags = ["--dataset=folder", f"--data_dir={mvtec}", f"--workdir={tmp_path}", *QUICK]
    process = subprocess.Popen(
        [*SMALL_MAIN, *flags, "--steps=100000"],
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


def train_for_minutes(workdir, *flags):
    """Runs the real thing; returns its results."""
    done = subprocess.run(
        [*MAIN, *flags, f"--workdir={workdir}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    (file,) = workdir.rglob("results.json")
    return json.loads(file.read_text())


@pytest.mark.slow
@pytest.mark.skipif(
    not (SHARED_DATA / "magnetic_tile").is_dir(), reason="the magnetic tile data set is not here"
)
def test_training_raises_the_auroc_on_magnetic_tiles(tmp_path):
    results = train_for_minutes(
        tmp_path, "--dataset=folder", f"--data_dir={SHARED_DATA}", "--category=magnetic_tile",
        "--image_size=64", "--width=0.25", "--head_dims=128", "--batch_size=16", "--steps=1600",
    )  # fmt: skip
    assert results["image_auroc"] > results["untrained_image_auroc"] + 0.08


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least", "gained"), [("demo", 0.94, 0.0), ("resnet18_demo", 0.86, 0.02)]
)
def test_the_demos_tell_broken_cells_from_others(tmp_path, name, least, gained):
    pytest.importorskip("elpv_dataset", reason="the extra demo is not installed")
    results = train_for_minutes(tmp_path, f"--flagfile=experiments/{name}.flags")
    assert results["image_auroc"] > least
    assert results["image_auroc"] >= results["untrained_image_auroc"] + gained


def test_twelve_bits_in_sixteen_are_as_bright_as_eight(run_here, tmp_path):
    """The same set with 8 bits and with 12 in files of 16 gets the same scores, also later."""
    dark, bright = (tmp_path / name for name in ("dark", "bright"))
    make_mvtec(bright, train=6, good=2, bad=2)
    for path in sorted(bright.rglob("*.png")):
        pixels = np.array(Image.open(path).convert("L"))
        if "ground_truth" not in path.parts:
            pixels[0, 0] = 255  # all of 12 bits are filled
            write_image(dark / path.relative_to(bright), pixels.astype(np.uint16) << 4)
        else:
            write_image(dark / path.relative_to(bright), pixels)
        write_image(path, pixels)
    for data, bits in ((dark, 12), (bright, 16)):
        run_here(data, data, "--category=part", "--steps=0")
        assert results_of(data)["bit_depth"] == bits
    np.testing.assert_array_equal(scores(dark), scores(bright))
    files = sorted(str(path) for path in (dark / "part" / "test").rglob("*.png"))
    again = Detector.load(run_dir_of(dark)).score(files)
    np.testing.assert_allclose(again, scores(dark), rtol=1e-5)


SHAPES = {
    "tiles": ("--tiles=2x2", "--resize=pad", "--maps=features", "--map_levels=conv2,conv3"),
    "tiles without maps": ("--tiles=1x2",),
    "a region": ("--resize=squash", "--maps=gradcam"),
}


@pytest.mark.parametrize("shape", slow_but(list(SHAPES), "tiles without maps"))
def test_predictions_of_images_of_any_shape_are_the_runs_scores(
    shape, quick_views, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        "cutpaste_tf.models.backbone.build_backbone",
        lambda settings, initial_weights=True: small.staged_backbone(settings.size),
    )
    sizes = [(60, 90), (90, 60), (70, 70)]
    data = make_mvtec(tmp_path / "data", train=9, good=3, bad=3, sizes=sizes)
    mask = np.zeros([30, 30], np.uint8)
    mask[4:24, 3:25] = 255
    roi = write_image(tmp_path / "roi.png", mask)
    flags = [*QUICK, "--image_size=32x48", f"--roi={roi}", *SHAPES[shape]]
    where = ["--dataset=folder", f"--data_dir={data}", f"--workdir={tmp_path}"]
    assert main.main(["main", *where, *flags]) == 0
    run_dir, makes_maps = run_dir_of(tmp_path), "maps" in " ".join(flags)
    assert "region of interest: 49% of the image" in capsys.readouterr().out
    results = results_of(tmp_path)
    assert len(run_folder.read_normal_scores(run_dir)) == 9
    for name in ("pixel_auroc", "pixel_aupro", "untrained_pixel_auroc"):
        assert (results[name] is not None) == makes_maps
    figures = {path.name for path in (run_dir / "figures").iterdir()}
    assert {"augmentations.png", "most_and_least_anomalous.png"} <= figures
    assert main.main(["main", *where, *flags]) == 0
    assert "finished already" in capsys.readouterr().out

    roi.unlink()  # The run has its own.
    output = tmp_path / "out"
    arguments = [f"--run={run_dir}", f"--images={data / 'part' / 'test'}", f"--output={output}"]
    assert predict.main(["predict", *arguments, *(["--maps"] if makes_maps else [])]) == 0
    rows = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    predicted = [row["score"] for row in rows]
    np.testing.assert_allclose(predicted, scores(tmp_path), rtol=1e-4, atol=1e-4)
    preparation = Detector.load(run_dir).preparation
    assert preparation.roi.shape == (30, 30)
    for row in rows if makes_maps else ():
        with Image.open(row["path"]) as image, Image.open(row["map"]) as overlay:
            assert overlay.size == image.size
            size = image.size[::-1] if preparation.resize == "pad" else preparation.canvas
        values = np.load(row["map"].removesuffix(".png") + ".npy")
        assert values.shape == size
        region = preparation.own_region(*size)
        # To the pixel of the canvas.
        near = scipy.ndimage.binary_dilation(region, np.ones([3, 3]), iterations=2)
        assert not values[~near].any()
        assert values[region].any() or "--maps=gradcam" in flags
    (run_dir / "roi.png").unlink()
    with pytest.raises(UserError, match=r"roi\.png: missing"):
        Detector.load(run_dir)


def test_a_region_that_cannot_be_is_one_line_and_can_be_mended(run_here, mvtec, tmp_path):
    path, mask = tmp_path / "roi.png", np.zeros([99, 99], np.uint8)
    for message in ("there is no such file", "8 of 8 normal training images show nothing of"):
        done = run_here(mvtec, tmp_path, f"--roi={path}", status=2)
        assert_user_error(done, f"--roi={path}: {message}")
        assert "step" not in done.stdout
        mask[0, 0] = 255
        write_image(path, mask)
    write_image(path, 255 - mask)
    done = run_here(mvtec, tmp_path, f"--roi={path}")
    assert (run_dir_of(tmp_path) / "results.json").is_file()


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
    assert alone.stderr == ""
    copies, tested = copied.stderr.splitlines()
    of_first = "train/good/see_0.bmp of train/good/img_0.png; each image counts once"
    assert copies == f"warning: 3 of 15 training images are copies, such as {of_first}"
    assert "1 of 9 test images are training images too, such as test/hole/9.tiff" in tested
    folders = [run_dir_of(tmp_path / name) for name in ("alone", "copied")]
    assert (folders[0] / "density.npz").read_bytes() == (folders[1] / "density.npz").read_bytes()
    np.testing.assert_array_equal(*map(run_folder.read_normal_scores, folders))
    results = [run_folder.read_results(folder) for folder in folders]
    assert [one["num_train"] for one in results] == [12, 15]
    for name in ("threshold", "num_normal_scores"):
        assert results[0][name] == results[1][name]
