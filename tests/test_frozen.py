"""Scores, maps and thresholds of four small runs stay what they were when they were written down.

    python tests/test_frozen.py

writes them down anew, for a change that is meant to move them, or for another processor: their
training multiplies what its rounding adds. Run it before the change, and see the test pass.
"""

import contextlib
import io
import json
import pathlib
import sys
import tempfile

import conftest
import numpy as np
import pytest

FROZEN = pathlib.Path(__file__).with_name("frozen.json")
RUNS = {
    "lite0 with maps": ("--flagfile=experiments/lite0_pretrained.flags", "--image_size=96"),
    "resnet18 with gradcam": ("--maps=gradcam", "--image_size=64", *conftest.TINY[1:]),
    "patches": ("--patch_size=64", "--dense_stride=16", "--image_size=96", *conftest.TINY[1:]),
    "tiles with a region": (
        *("--tiles=1x2", "--image_size=64", "--maps=features", "--image_score=map"),
        *("--roi=ROI", *conftest.TINY[1:]),
    ),
}
TOLERANCE = 1e-5


def make_images(root):
    """A dozen normal images, six to test on, and a region of interest."""
    rng = np.random.default_rng(5)
    folder = root / "data" / "part"
    base = conftest.pattern(rng, 120)[:80].astype(np.int64)
    for number in range(18):
        image = (base + rng.normal(0, 12, base.shape)).clip(0, 255).astype(np.uint8)
        if number >= 15:
            image[20:40, 10 * number - 100 : 10 * number - 90] = rng.integers(0, 256, 3)
        part = "train/good" if number < 12 else "test/good" if number < 15 else "test/hole"
        conftest.write_image(folder / part / f"{number:03d}.png", image)
    region = np.zeros([80, 120], np.uint8)
    region[10:70, 15:110] = 255
    conftest.write_image(root / "region.png", region)


def numbers(root, name):
    """What a run makes of the images."""
    from cutpaste_tf import main
    from cutpaste_tf.scoring.detector import Detector

    workdir = root / name.replace(" ", "_")
    flags = [flag.replace("ROI", str(root / "region.png")) for flag in RUNS[name]]
    flags += ["--dataset=folder", f"--data_dir={root / 'data'}", f"--workdir={workdir}"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main.main(["main", *flags]) == 0
    run_dir = workdir / "part" / "seed_0"
    results = json.loads((run_dir / "results.json").read_text())
    maps = Detector.load(run_dir).evaluate(sorted((root / "data/part/test").rglob("*.png"))).maps
    read = maps.read(range(6))
    assert read.max() > read.min()
    return {
        "scores": [float(row["score"]) for row in conftest.read_scores(run_dir)],
        "threshold": results["threshold"],
        "pixel_threshold": results["pixel_threshold"],
        "maps": read[:, 5::16, 5::16].astype(float).round(9).tolist(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_numbers_are_as_they_were(name, tmp_path):
    make_images(tmp_path)
    frozen, found = json.loads(FROZEN.read_text())[name], numbers(tmp_path, name)
    assert found.keys() == frozen.keys()
    for what, before in frozen.items():
        if before is None:
            assert found[what] is None
            continue
        before = np.array(before)
        least = TOLERANCE * np.abs(before).max()
        np.testing.assert_allclose(found[what], before, TOLERANCE, least, err_msg=what)


def write():
    """Writes the numbers of today."""
    with tempfile.TemporaryDirectory() as folder:
        make_images(pathlib.Path(folder))
        frozen = {name: numbers(pathlib.Path(folder), name) for name in RUNS}
    FROZEN.write_text(json.dumps(frozen) + "\n")


if __name__ == "__main__":
    sys.exit(write())
