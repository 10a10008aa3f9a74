"""Photographs of brick, grass and gravel from scikit-image, with drawn defects (extra `demo`).

Each photograph is 512x512, grey. Random crops of its left and right parts are for training. Crops
of its middle, disjoint from both, are for testing: half of them as they are, half with a drawn
defect and its mask: a scratch, a blotch or a blur. Light and slant change across a photograph, so
after a training on one side the whole other side would be anomalous. The defects are synthetic and
differ from CutPaste's own edits; the crops are the same at every call.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from cutpaste_tf.data.split import Category, Split, normal_split
from cutpaste_tf.files import UserError

CROP = 96  # pixels
TRAIN_IMAGES = 200
TEST_IMAGES = 120
MIDDLE = (168, 344)  # these columns are for testing, the others for training
_SEED = 20210620
DEFECTS = ("scratch", "blotch", "blur")


def load(data_dir: str, category: str) -> Category:
    """Cuts the crops of one texture, uint8 [96, 96], from the package; `data_dir` is not used."""
    try:
        import skimage.data
    except ImportError as error:
        raise UserError(
            '--dataset=textures: needs the package scikit-image; pip install "cutpaste-tf[demo]"'
        ) from error
    photograph = getattr(skimage.data, category)()
    rng = np.random.default_rng([_SEED, *category.encode()])
    left, middle, right = np.split(photograph, MIDDLE, axis=1)
    train = [crop for side in (left, right) for crop in _crops(side, TRAIN_IMAGES // 2, rng)]
    test = _crops(middle, TEST_IMAGES, rng)
    masks: list[np.ndarray | None] = [None] * TEST_IMAGES
    types = ["good"] * TEST_IMAGES
    for index in range(TEST_IMAGES // 2, TEST_IMAGES):
        types[index] = DEFECTS[index % len(DEFECTS)]
        test[index], masks[index] = draw_defect(test[index], types[index], rng)
    return Category(
        train=normal_split([f"train/good/{i:03d}.png" for i in range(TRAIN_IMAGES)], train),
        test=Split([f"test/{t}/{i:03d}.png" for i, t in enumerate(types)], test, types, masks),
    )


def _crops(area, count, rng):
    ys = rng.integers(0, area.shape[0] - CROP + 1, count)
    xs = rng.integers(0, area.shape[1] - CROP + 1, count)
    return [area[y : y + CROP, x : x + CROP].copy() for y, x in zip(ys, xs, strict=True)]


def draw_defect(
    image: np.ndarray, kind: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a defect on an image, uint8 [H, W]; returns the image and the mask, bool [H, W].

    A scratch is a bent bright or dark line, a blotch a soft stain, a blur a round area out of
    focus.
    """
    height, width = image.shape
    mask = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(mask)
    centre = rng.uniform(0.25, 0.75, 2) * (width, height)
    if kind == "scratch":
        angle, length = rng.uniform(0, np.pi), rng.uniform(0.2, 0.4) * width
        along = np.array([np.cos(angle), np.sin(angle)])
        bend = np.array([-along[1], along[0]]) * rng.uniform(-0.15, 0.15) * length
        points = [centre - along * length / 2, centre + bend, centre + along * length / 2]
        draw.line([tuple(p) for p in points], fill=255, width=int(rng.integers(2, 5)))
    else:
        radii = rng.uniform(0.07, 0.14, 2) * (width, height)
        draw.ellipse([*(centre - radii), *(centre + radii)], fill=255)
    solid = np.asarray(mask) > 0
    soft = np.asarray(mask.filter(ImageFilter.GaussianBlur(1)), np.float64) / 255.0
    pixels = image.astype(np.float64)
    if kind == "blur":
        blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(3))
        changed = np.asarray(blurred, np.float64)
    else:
        changed = pixels + rng.uniform(50, 90) * rng.choice([-1, 1])
    result = pixels + soft * (changed - pixels)
    return np.clip(np.round(result), 0, 255).astype(np.uint8), solid
