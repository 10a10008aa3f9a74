"""Where a density for each location helps (Appendix A.5), on made sets with real coins.

    python experiments/location_density.py [--steps=600] [--seed=0,1,2]

Both sets are made of scikit-image's photograph of coins. In `aligned` the coins lie in the same
positions in all images. In `rotated` the photograph is turned by a random angle and shifted by up
to a quarter of its side, its surroundings mirrored, so that all positions are alike. Defective test
images have a scratched coin or, in `aligned`, two exchanged coins. Each set is trained and scored
with one density for all locations and with one for each location. The script prints the pixel AUROC
and AUPRO of all four.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128
# The part of the photograph that is used, and the rows and columns of its whole coins' centres.
PART = (slice(55, 279), slice(15, 239))
COINS = (
    (124, 45),
    (125, 102),
    (127, 153),
    (124, 205),
    (197, 43),
    (195, 102),
    (198, 154),
    (193, 212),
)
RADIUS = 22


def scene(rng: np.random.Generator, defect: str | None, turned: bool) -> tuple[Image.Image, ...]:
    """Makes an image and the mask of its defect, [SIZE, SIZE]."""
    import skimage.data

    pixels = skimage.data.coins()[PART].astype(np.float32)
    mask = np.zeros(pixels.shape, bool)
    rows, columns = np.indices(pixels.shape)
    centres = [(y - PART[0].start, x - PART[1].start) for y, x in COINS]
    first, second = rng.choice(len(centres), 2, replace=False)

    def disk(centre):
        return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= RADIUS**2

    if defect == "exchanged":
        original = pixels.copy()
        for one, other in ((first, second), (second, first)):
            pixels[disk(centres[one])] = original[disk(centres[other])]
            mask |= disk(centres[one])
    elif defect == "scratched":
        line = Image.new("L", pixels.shape[::-1])
        y, x = centres[first]
        angle = rng.uniform(0, np.pi)
        step = np.array([np.cos(angle), np.sin(angle)]) * 18
        ends = [x - step[0], y - step[1], x + step[0], y + step[1]]
        ImageDraw.Draw(line).line(ends, fill=255, width=4)
        mask = np.asarray(line) > 0
        pixels[mask] = 40
    pixels = pixels * rng.uniform(0.9, 1.1) + rng.normal(0, 3, pixels.shape)
    height, width = pixels.shape
    angle, reach = (rng.uniform(0, 360), width // 4) if turned else (0.0, 2)
    move = tuple(int(v) for v in rng.integers(-reach, reach + 1, 2))
    # A square that is turned about its middle needs surroundings at its corners.
    border = 3 + round(0.21 * height) + reach
    box = (border, border, border + width, border + height)

    def moved(values, resample):
        image = Image.fromarray(np.pad(values, border, mode="reflect"))
        return image.rotate(angle, resample, translate=move).crop(box)

    image = moved(np.clip(pixels, 0, 255).astype(np.uint8), Image.Resampling.BILINEAR)
    marks = moved(mask.astype(np.uint8) * 255, Image.Resampling.NEAREST)
    size = (SIZE, SIZE)
    return image.resize(size, Image.Resampling.BOX), marks.resize(size, Image.Resampling.NEAREST)


def make(root: pathlib.Path, turned: bool, train: int = 120, test: int = 20) -> None:
    """Writes a category in MVTec layout."""
    rng = np.random.default_rng(int(turned))
    defects = ["scratched"] if turned else ["exchanged", "scratched"]
    for split, kind, count in (
        ("train", "good", train),
        ("test", "good", test),
        *(("test", defect, test) for defect in defects),
    ):
        for i in range(count):
            image, mask = scene(rng, None if kind == "good" else kind, turned)
            path = root / split / kind / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
            if kind != "good":
                path = root / "ground_truth" / kind / f"{i:03d}_mask.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                mask.save(path)


def main() -> None:
    """Makes the sets, trains, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", default="0,1,2")
    parser.add_argument("--workdir", help="folder for data and runs; a temporary one by default")
    arguments = parser.parse_args()
    temporary = tempfile.TemporaryDirectory()
    folder = pathlib.Path(arguments.workdir or temporary.name)
    for name in ("aligned", "rotated"):
        if not (folder / "data" / name).is_dir():
            make(folder / "data" / name, turned=name == "rotated")
    print("set      density   pixel AUROC by seed    mean   AUPRO mean")
    for name in ("aligned", "rotated"):
        for density in ("shared", "separate"):
            command = [
                *(sys.executable, "-m", "cutpaste_tf.main", "--dataset=folder"),
                *(f"--data_dir={folder / 'data'}", f"--category={name}"),
                *(f"--image_size={SIZE}", "--patch_size=64", "--dense_stride=8", "--width=0.25"),
                *("--batch_size=16", f"--steps={arguments.steps}", f"--seed={arguments.seed}"),
                *("--eval_every=0", f"--location_density={density}"),
                f"--workdir={folder / density}",
            ]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            results = [
                json.loads(path.read_text())
                for path in sorted((folder / density / name).glob("seed_*/results.json"))
            ]
            aurocs = [100 * r["pixel_auroc"] for r in results]
            aupro = np.mean([100 * r["pixel_aupro"] for r in results])
            by_seed = " ".join(f"{a:6.1f}" for a in aurocs)
            print(f"{name:8s} {density:9s} {by_seed:22s} {np.mean(aurocs):6.1f} {aupro:8.1f}")


if __name__ == "__main__":
    main()
