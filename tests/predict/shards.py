"""A prediction on Ray by a model that needs no time to load.

    SHARD=5 SECONDS=0.1 python tests/predict/shards.py IMAGES OUTPUT

The shards have SHARD files; each takes so many SECONDS. Two workers share them.
"""

import os
import sys
import time

import numpy as np

from cutpaste_tf import cli
from cutpaste_tf.predict import many
from cutpaste_tf.threshold import Threshold

SECONDS = float(os.environ.get("SECONDS", 0.0))


class BrightnessModel:
    """Scores an image by its brightness, from 0 to 1; see `predict.model.Model`."""

    threshold, scale, bits, inputs, device = Threshold(0.5), None, 8, 1, "nothing"

    def prepare(self, image):
        """Waits, too."""
        time.sleep(SECONDS)
        return float(np.mean(image)) / 255.0

    def score(self, prepared, sizes):
        """Has nothing left to do."""
        return [(score, None) for score in prepared]


@cli.command()
def main(arguments):
    """Scores the images."""
    many.SHARD = int(os.environ.get("SHARD", 5))
    images, output = arguments
    with cli.writing("--output", output):
        many.predict(BrightnessModel, {"run": "brightness"}, [images], output, cpus=1, log=print)


if __name__ == "__main__":
    sys.exit(main())
