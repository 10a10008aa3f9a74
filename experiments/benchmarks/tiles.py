"""Measures memory and time of predictions with maps for 6,000x4,000 images in tiles.

    python experiments/benchmarks/tiles.py [--tiles=8x12]

A run of lite0_pretrained.flags, fitted to images of 1,500x1,000, scores one, four and twelve large
images. The baseline is one image of 512x384. This needs the extra lite.
"""

import pathlib
import sys
import tempfile

import common
import numpy as np
from PIL import Image

LARGE, SMALL, TRAINED_ON = (4000, 6000), (384, 512), (1000, 1500)


def write(path: pathlib.Path, size: tuple[int, int], rng: np.random.Generator) -> None:
    """Writes a smooth image with some grain and a dark crack 60 pixels long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = Image.fromarray(rng.integers(90, 170, (40, 60), np.uint8))
    pixels = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC), np.float32)
    pixels = pixels + rng.normal(scale=6.0, size=size).astype(np.float32)
    row, column = size[0] // 3, size[1] // 3
    pixels[row : row + 3, column : column + 60] = 20.0
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, compress_level=1)


def main() -> None:
    """Measures and prints."""
    parser = common.parser(__doc__, rounds=1)
    parser.add_argument("--tiles", default="8x12")
    arguments = parser.parse_args()
    print(common.machine("tensorflow", "keras"))
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for number in range(6):
            write(folder / "data" / "part" / "train" / "good" / f"{number}.png", TRAINED_ON, rng)
        for number in range(4):
            write(folder / "large" / f"{number}.png", LARGE, rng)
        write(folder / "small" / "0.png", SMALL, rng)
        flagfile = pathlib.Path(__file__).parents[1] / "lite0_pretrained.flags"
        train = [sys.executable, "-m", "cutpaste_tf.main", f"--flagfile={flagfile}"]
        train += [f"--data_dir={folder / 'data'}", "--category=part", "--image_size=256"]
        done = common.run([*train, f"--tiles={arguments.tiles}", f"--workdir={folder / 'runs'}"])
        if done.status:
            sys.exit(done.output)
        predict = [sys.executable, "-m", "cutpaste_tf.predict", "--maps"]
        predict += [f"--run={folder / 'runs' / 'part' / 'seed_0'}", f"--output={folder / 'out'}"]
        found = {}
        for name, images in (
            ("one of 512x384", ["small"]),
            ("one of 6000x4000", ["large/0.png"]),
            ("four of 6000x4000", ["large"]),
            ("twelve of 6000x4000", ["large"] * 3),
        ):
            paths = [str(folder / image) for image in images]
            found[name] = one = common.run([*predict, "--images", *paths])
            print(f"{name:20s} {one.mebibytes:6.0f} MiB {one.seconds:6.1f} s", flush=True)
        small, _, _, large = found.values()
        against = "one image of 512x384"
        name = f"twelve images of 6000x4000, {arguments.tiles} tiles"
        common.result(f"{name}: memory", large.mebibytes, small.mebibytes, "MiB", against)
        common.result(f"{name}: time", large.seconds, small.seconds, "s", against)


if __name__ == "__main__":
    main()
