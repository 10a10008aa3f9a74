"""CutPaste and CutPaste-Scar: cut a patch, jitter its colours, paste it elsewhere (Appendix A.2).

No step works on whole images: a patch's pixels are read as a list, jittered as a list, and written
to their targets. The length of the list depends on the image's size and the settings alone, so that
all shapes are static and XLA can compile them.
"""

import math
from typing import NamedTuple

import tensorflow as tf

from cutpaste_tf.augment import color, random

# Appendix A.2; lengths in pixels, angles in degrees.
AREA_RATIO = (0.02, 0.15)
ASPECT_RATIOS = ((0.3, 1.0), (1.0, 3.3))
SCAR_WIDTH = (2, 16)
SCAR_LENGTH = (10, 25)
SCAR_ANGLE = 45.0
JITTER = 0.1
# The longest side of the upright box around a turned scar, l cos t + w sin t where tan t is w / l.
SCAR_SIDE = math.ceil(math.hypot(SCAR_LENGTH[1], SCAR_WIDTH[1]))
# The most pixels of that box: at 45 degrees, where both sides are (l + w) / sqrt(2).
SCAR_PIXELS = math.ceil((SCAR_LENGTH[1] + SCAR_WIDTH[1]) / math.sqrt(2.0) + 1.0) ** 2


class Patch(NamedTuple):
    """Where each image's patch is cut and where it is pasted; all fields are int32 or float32 [B].

    The source is the rectangle of `height` x `width` pixels whose top left pixel is
    (`source_y`, `source_x`). It is turned by `angle` about its centre; the smallest upright box of
    whole pixels around it, `box_height` x `box_width`, is put down with its top left pixel at
    (`target_y`, `target_x`). Both lie inside the image.
    """

    height: tf.Tensor
    width: tf.Tensor
    angle: tf.Tensor | None  # radians, counter-clockwise as the image is seen; None: upright
    source_y: tf.Tensor
    source_x: tf.Tensor
    box_height: tf.Tensor
    box_width: tf.Tensor
    target_y: tf.Tensor
    target_x: tf.Tensor


class Edit(NamedTuple):
    """New values of some pixels of each image.

    `index` is int32 [B, P], the pixels' positions y * W + x in their image; `pixels` is [B, P, C].
    A pixel may occur more than once, then with the same value, so the order does not matter.
    """

    index: tf.Tensor
    pixels: tf.Tensor


def sample_patch(
    batch: int | tf.Tensor,
    size: tuple[int, int],
    seed: random.Seed | tf.Tensor,
    area_ratio: tuple[float, float] = AREA_RATIO,
) -> Patch:
    """Draws CutPaste's upright rectangles for images of a height and width in pixels.

    The share of the area is uniform; the aspect ratio, height by width, is uniform in (0.3, 1) or
    (1, 3.3), each of the two with probability one half.
    """
    area_seed, side_seed, aspect_seed, place_seed = random.split(seed, 4)
    area = random.uniform([batch], area_seed, *area_ratio) * (size[0] * size[1])
    unit = random.uniform([batch], aspect_seed, 0.0, 1.0)
    wide, tall = (low + (high - low) * unit for low, high in ASPECT_RATIOS)
    aspect = tf.where(random.uniform([batch], side_seed, 0.0, 1.0) < 0.5, wide, tall)

    def whole(length, limit):
        return tf.cast(tf.clip_by_value(tf.round(length), 1.0, float(limit)), tf.int32)

    height = whole(tf.sqrt(area * aspect), size[0])
    width = whole(tf.sqrt(area / aspect), size[1])
    return _place(height, width, None, size, place_seed)


def sample_scar(
    batch: int | tf.Tensor, size: tuple[int, int], seed: random.Seed | tf.Tensor
) -> Patch:
    """Draws CutPaste-Scar's long, thin, turned rectangles; ValueError if they do not fit.

    Width and length (upright before turning) are uniform over whole pixels, the angle is uniform in
    (-45, 45) degrees. The sizes in pixels are the same for all images, as in the paper, which has
    256x256 images and 64x64 patches.
    """
    if min(size) < SCAR_SIDE:
        raise ValueError(f"a scar's {SCAR_SIDE} pixels do not fit into {size}")
    width_seed, length_seed, angle_seed, place_seed = random.split(seed, 4)
    limit = SCAR_ANGLE * math.pi / 180.0
    return _place(
        random.integers([batch], length_seed, *SCAR_LENGTH),
        random.integers([batch], width_seed, *SCAR_WIDTH),
        random.uniform([batch], angle_seed, -limit, limit),
        size,
        place_seed,
    )


def move_into(
    patch: Patch, counts: tf.Tensor, size: tuple[int, int], seed: random.Seed | tf.Tensor
) -> Patch:
    """Moves patches into their images' regions of interest; `counts` is from `count_pixels`.

    A patch is cut around a random pixel of the region and pasted around another, or as near to
    these pixels as the image's border allows.
    """

    def around(height, width, place_seed):
        total = tf.maximum(counts[:, -1], 1)
        number = random.integers([tf.shape(counts)[0]], place_seed, 0, total - 1)
        pixel = tf.searchsorted(counts, number[:, None], side="right")[:, 0]
        pixel = tf.minimum(pixel, size[0] * size[1] - 1)
        row, column = tf.math.floordiv(pixel, size[1]), tf.math.floormod(pixel, size[1])
        return (
            tf.clip_by_value(row - height // 2, 0, size[0] - height),
            tf.clip_by_value(column - width // 2, 0, size[1] - width),
        )

    source_seed, target_seed = random.split(seed, 2)
    source = around(patch.height, patch.width, source_seed)
    target = around(patch.box_height, patch.box_width, target_seed)
    return patch._replace(
        source_y=source[0], source_x=source[1], target_y=target[0], target_x=target[1]
    )


def count_pixels(region: tf.Tensor) -> tf.Tensor:
    """Counts the pixels of regions, bool [B, H, W], up to and including each: int32 [B, H * W]."""
    flat = tf.reshape(region, [tf.shape(region)[0], region.shape[1] * region.shape[2]])
    return tf.cumsum(tf.cast(flat, tf.int32), axis=1)


def patch_pixels(size: tuple[int, int], area_ratio: tuple[float, float] = AREA_RATIO) -> int:
    """Returns the most pixels that a patch of `sample_patch` can have."""
    area = area_ratio[1] * size[0] * size[1]
    # Rounding adds up to half a pixel to each side; the sides' sum is largest at the extremes of
    # the aspect ratio.
    sides = max(math.sqrt(r) + 1.0 / math.sqrt(r) for pair in ASPECT_RATIOS for r in pair)
    most = math.ceil(area + 0.5 * sides * math.sqrt(area) + 0.25)
    return min(most, size[0] * size[1])


def cut(images: tf.Tensor, patch: Patch, pixels: int, jitter: color.Jitter | None) -> Edit:
    """Cuts the patches out of their images, jitters them and turns them, ready to be pasted.

    Each target pixel takes the nearest source pixel. `pixels` is the largest number of pixels in a
    patch's upright box. The jitter's contrast refers to the mean grey level of the patch.
    """
    source, target, inside = listed(patch, pixels, tf.shape(images)[2])
    values = read(images, source)
    if jitter is not None:
        values = color.apply(values, jitter, weights=tf.cast(inside, tf.float32))
    return Edit(target, values)


def listed(
    patch: Patch, pixels: int, image_width: int | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Lists the pixels of patches, as positions y * W + x in their image.

    Returns where each pixel is cut and where it is pasted, int32 [B, P], and whether it belongs to
    the patch, bool [B, P]. A pixel outside the patch repeats one inside.
    """
    return (_upright_pixels if patch.angle is None else _turned_pixels)(patch, pixels, image_width)


def read(images: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """Reads pixels, [B, P, C], of images, [B, H, W, C], at the positions int32 [B, P]."""
    flat = tf.reshape(images, [-1, images.shape[-1]])
    return tf.gather(flat, index + _offsets(tf.shape(images)))


def either(first: Edit, second: Edit, take_first: tf.Tensor) -> Edit:
    """Takes for each image one of two edits; the shorter one's first pixel is repeated."""
    most = max(first.index.shape[1], second.index.shape[1])

    def lengthen(edit):
        missing = most - edit.index.shape[1]
        return [
            tf.concat([values, tf.repeat(values[:, :1], missing, axis=1)], 1) for values in edit
        ]

    (index, pixels), (other_index, other_pixels) = lengthen(first), lengthen(second)
    return Edit(
        tf.where(take_first[:, None], index, other_index),
        tf.where(take_first[:, None, None], pixels, other_pixels),
    )


def write(images: tf.Tensor, edits: list[tuple[int, Edit]]) -> tf.Tensor:
    """Writes edits, each with the number of its first image, into images, [N, H, W, C]."""
    if not edits:
        return images
    shape = tf.shape(images)
    area, channels = shape[1] * shape[2], images.shape[-1]
    index = [
        tf.reshape(edit.index + (_offsets(tf.shape(edit.index), area) + first * area), [-1, 1])
        for first, edit in edits
    ]
    pixels = [tf.reshape(edit.pixels, [-1, channels]) for _, edit in edits]
    flat = tf.tensor_scatter_nd_update(
        tf.reshape(images, [-1, channels]), tf.concat(index, 0), tf.concat(pixels, 0)
    )
    return tf.reshape(flat, shape)


def static_size(images: tf.Tensor) -> tuple[int, int]:
    """Returns height and width of images; ValueError if they are not static."""
    height, width = images.shape[1], images.shape[2]
    if height is None or width is None:
        raise ValueError(f"images must have a static height and width, not {images.shape}")
    return height, width


def _offsets(shape, area=None):
    """The flat position of each image's first pixel, [B, 1]."""
    area = shape[1] * shape[2] if area is None else area
    return tf.range(shape[0])[:, None] * area


def _place(height, width, angle, size, seed):
    """Draws where the rectangles are cut and pasted, such that both lie inside the image."""
    seeds = random.split(seed, 4)
    if angle is None:
        box_height, box_width = height, width
    else:
        cos, sin = tf.abs(tf.cos(angle)), tf.abs(tf.sin(angle))
        h, w = tf.cast(height, tf.float32), tf.cast(width, tf.float32)

        def box(length, limit):
            # A little less than exact, so that an unturned 7.0000001 stays 7 pixels.
            return tf.minimum(tf.cast(tf.math.ceil(length - 1e-3), tf.int32), limit)

        box_height, box_width = box(h * cos + w * sin, size[0]), box(h * sin + w * cos, size[1])
    shape = [tf.shape(height)[0]]
    return Patch(
        height=height,
        width=width,
        angle=angle,
        source_y=random.integers(shape, seeds[0], 0, size[0] - height),
        source_x=random.integers(shape, seeds[1], 0, size[1] - width),
        box_height=box_height,
        box_width=box_width,
        target_y=random.integers(shape, seeds[2], 0, size[0] - box_height),
        target_x=random.integers(shape, seeds[3], 0, size[1] - box_width),
    )


def _upright_pixels(patch, pixels, image_width):
    """Does what `listed` does for upright patches; other pixels repeat the patch's last one."""
    height, width = patch.height[:, None], patch.width[:, None]
    number = tf.range(pixels)[None]
    inside = number < height * width
    number = tf.minimum(number, height * width - 1)
    row = tf.truncatediv(number, width)
    # The position of a pixel is row * W + column, and column is number - row * width.
    position = number + row * (image_width - width)
    source = position + (patch.source_y * image_width + patch.source_x)[:, None]
    target = position + (patch.target_y * image_width + patch.target_x)[:, None]
    return source, target, inside


def _turned_pixels(patch, pixels, image_width):
    """Does what `listed` does for turned patches."""
    p = {name: value[:, None] for name, value in patch._asdict().items()}
    number = tf.range(pixels)[None]
    row, column = tf.truncatediv(number, p["box_width"]), tf.math.mod(number, p["box_width"])

    def middle(index, length):  # of a pixel, from the middle of `length` pixels
        return tf.cast(2 * index + 1 - length, tf.float32) / 2.0

    # Turning back from the target to the source: the inverse rotation, y pointing down.
    dy, dx = middle(row, p["box_height"]), middle(column, p["box_width"])
    cos, sin = tf.cos(p["angle"]), tf.sin(p["angle"])
    h, w = tf.cast(p["height"], tf.float32), tf.cast(p["width"], tf.float32)
    y, x = dx * sin + dy * cos + h / 2.0, dx * cos - dy * sin + w / 2.0
    inside = (row < p["box_height"]) & (y >= 0) & (y < h) & (x >= 0) & (x < w)
    # Only pixels outside are clipped; they are replaced below.
    y = tf.clip_by_value(tf.cast(tf.floor(y), tf.int32), 0, p["height"] - 1)
    x = tf.clip_by_value(tf.cast(tf.floor(x), tf.int32), 0, p["width"] - 1)
    source = (p["source_y"] + y) * image_width + p["source_x"] + x
    target = (p["target_y"] + row) * image_width + p["target_x"] + column
    # The first pixel inside stands in for all that are outside.
    first = tf.argmax(tf.cast(inside, tf.int32), axis=1, output_type=tf.int32)[:, None]
    source = tf.where(inside, source, tf.gather(source, first, batch_dims=1))
    target = tf.where(inside, target, tf.gather(target, first, batch_dims=1))
    return source, target, inside
