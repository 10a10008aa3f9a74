"""A watch without TensorFlow: an image's score is its mean.

python tests/predict/arriving.py INBOX OUTPUT
"""

import csv
import json
import pathlib
import sys

import numpy as np
from PIL import Image

from cutpaste_tf import cli
from cutpaste_tf.predict import watch
from cutpaste_tf.predict.rows import COLUMNS
from cutpaste_tf.threshold import Threshold


class Mean:
    """A model that needs nothing."""

    threshold, scale, bits, inputs, device = Threshold(100.0), None, 16, 1, "paper"

    def prepare(self, image):
        return float(image.mean())

    def score(self, prepared, sizes):
        return [(mean, None) for mean in prepared]


def put(folder, name, value):
    """Writes an image of one grey aside and renames it into its place, as a camera should."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f"{name}.part"
    Image.fromarray(np.full([8, 8, 3], value, np.uint8)).save(aside, format="png")
    return aside.rename(folder / name)


def rows(output):
    """Returns the rows, the same in both tables, which are whole."""
    text = (output / "predictions.jsonl").read_text()
    assert not text or text.endswith("\n")
    lines = [json.loads(line) for line in text.splitlines()]
    with open(output / "predictions.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file, strict=True))
    rows = [{name: line[name] for name in COLUMNS} for line in lines]
    said = [{name: "" if x is None else str(x) for name, x in row.items()} for row in rows]
    assert table == said
    return rows


@cli.command()
def main(arguments):
    """Watches a folder."""
    inbox, output = map(pathlib.Path, arguments)

    def log(text):
        print(text, flush=True)

    with cli.writing("--output", output):
        return watch.watch(inbox, output, Mean(), log=log)


if __name__ == "__main__":
    sys.exit(main())
