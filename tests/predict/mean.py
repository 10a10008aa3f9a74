"""Predictions without TensorFlow, as commands: an image's score is its mean.

    python tests/predict/mean.py watch FOLDER OUTPUT
    SHARD=5 SECONDS=0.1 python tests/predict/mean.py ray FOLDER OUTPUT

The parts on Ray have SHARD files, each of which takes so many SECONDS.
"""

import os
import pathlib
import sys
import time

import numpy as np
from PIL import Image

from cutpaste_tf import cli
from cutpaste_tf.threshold import Threshold

SECONDS = float(os.environ.get("SECONDS", 0.0))


class Mean:
    """A model that needs nothing; see `predict.model.Model`."""

    threshold, scale, bits, inputs, device = Threshold(100.0), None, 16, 1, "paper"

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
