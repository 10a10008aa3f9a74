"""Predictions without TensorFlow, as commands: an image's score is its mean.

    python tests/predict/mean.py watch FOLDER OUTPUT
    SHARD=5 SECONDS=0.1 python tests/predict/mean.py ray FOLDER OUTPUT

The parts on Ray have SHARD files, each of which takes so many SECONDS.
"""

import csv
import json
import os
import pathlib
import sys
import time

import numpy as np
from PIL import Image

from cutpaste_tf import cli
from cutpaste_tf.predict.rows import COLUMNS
from cutpaste_tf.threshold import Threshold

SECONDS = float(os.environ.get("SECONDS", 0.0))


class Mean:
    """A model that needs nothing; see `predict.model.Model`."""

    threshold, normal_scores = Threshold(100.0, median=50.0), np.arange(30.0, 71.0)
    scale, bits, inputs, device = None, 16, 1, "paper"

    def prepare(self, image):
        time.sleep(SECONDS)
        return float(image.mean())

    def score(self, prepared, sizes):
        return [(mean, None) for mean in prepared]


def put(folder, name, value):
    """Writes an image of one grey aside and renames it into its place, as a camera should."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f"{name}.part"
    Image.fromarray(np.full([8, 8, 3], value, np.uint8)).save(aside, format="png")
    return aside.rename(folder / name)


def write_images(folder):
    """Writes seven images of several sizes and formats in two folders, one of them broken."""
    rng = np.random.default_rng(1)
    (folder / "b").mkdir(parents=True)
    for i, name in enumerate(["0.png", "1.jpg", "2.tif", "3.bmp", "b/4.png", "b/5.webp"]):
        levels = rng.integers(0, 256, [3, 3, 3], np.uint8)
        Image.fromarray(levels).resize([30 + 9 * (i % 4)] * 2).save(folder / name)
    (folder / "b" / "broken.png").write_bytes(b"nothing")
    return folder


def read_rows(output):
    """Returns the rows, the same in both tables, which are whole."""
    text = (output / "predictions.jsonl").read_text()
    assert not text or text.endswith("\n")
    with open(output / "predictions.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file, strict=True))
    found = [{name: line[name] for name in COLUMNS} for line in map(json.loads, text.splitlines())]
    assert table == [{k: "" if x is None else str(x) for k, x in row.items()} for row in found]
    return found


@cli.command()
def main(arguments):
    """Watches a folder, or scores the images in it on Ray."""
    how, images, output = arguments
    options = {"batch_size": 32, "log": lambda text: print(text, flush=True)}
    with cli.writing("--output", output):
        if how == "watch":
            from cutpaste_tf.predict import watch

            return watch.watch(images, output, Mean(), **options)
        from cutpaste_tf.predict import parallel

        parallel.SHARD = int(os.environ.get("SHARD", 5))
        parallel.predict(Mean, {"run": "mean"}, [images], pathlib.Path(output), cpus=1, **options)


if __name__ == "__main__":
    sys.exit(main())
