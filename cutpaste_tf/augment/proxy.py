"""The table of proxy tasks, and the views that a task shows the network.

A task is a tuple of its classes, in the order of their labels. A class edits a few pixels of the
input view, turns it, or leaves it as it is.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from cutpaste_tf.augment import color, erase, paste, random, view


@dataclasses.dataclass(frozen=True)
class Settings:
    """The ranges that the views are drawn from; the paper's (Appendix A.2) by default.

    Attributes:
      jitter: maximum intensity of a pasted patch's colour jitter.
      area_ratio: smallest and largest share of the image that the CutPaste patch covers.
      translation: largest random shift of the input, as a share of its side.
      view_jitter: maximum intensity of the input's colour jitter: one number, or three, for
        brightness, contrast and saturation.
      patch_size: side in pixels of the random crop that takes the input's place, the same for all
        classes (Equation 3); 0: the whole image.
    """

    jitter: float = paste.JITTER
    area_ratio: tuple[float, float] = paste.AREA_RATIO
    # The paper gives no range for the input's own augmentation (Appendix A.1);
    # docs/reproduction.md compares some.
    translation: float = 0.0
    view_jitter: tuple[float, ...] = (0.0,)
    patch_size: int = 0


# What `draw_views` returns. Random numbers are not drawn in what XLA compiles: XLA would draw them
# again for each pixel, and would take long to compile the generators.
Drawn = tuple[view.View, list, tf.Tensor | None]


class Kind(NamedTuple):
    """A kind of edit, in two steps: only the second works on pixels."""

    # Takes the number of images, their height and width, a seed, the ranges and, where the images
    # have regions, `paste.count_pixels` of these; returns what `edit` takes.
    draw: Callable[..., Any]
    edit: Callable[[tf.Tensor, Any, Settings], paste.Edit]  # takes images and what was drawn


class Shape(NamedTuple):
    """A shape of patches."""

    # Takes the number of images, their height and width, a seed and the ranges.
    sample: Callable[[tf.Tensor, tuple[int, int], tf.Tensor, Settings], paste.Patch]
    pixels: Callable[[tuple[int, int], Settings], int]  # the most that a patch's upright box has


RECTANGLE = Shape(
    lambda batch, size, seed, ranges: paste.sample_patch(batch, size, seed, ranges.area_ratio),
    lambda size, ranges: paste.patch_pixels(size, ranges.area_ratio),
)
THIN = Shape(
    lambda batch, size, seed, ranges: paste.sample_scar(batch, size, seed),
    lambda size, ranges: paste.SCAR_PIXELS,
)


def patch_kind(shape: Shape, draw: Callable, edit: Callable) -> Kind:
    """Returns a kind that edits a patch of each image; `draw` draws the edit's last argument."""

    def drawn(batch, size, seed, settings, counts=None):
        patch_seed, other_seed, place_seed = random.split(seed, 3)
        patch = shape.sample(batch, size, patch_seed, settings)
        if counts is not None:
            patch = paste.move_into(patch, counts, size, place_seed)
        return patch, draw(batch, other_seed, settings)

    def edited(images, drawn, settings):
        patch, other = drawn
        return edit(images, patch, shape.pixels(paste.static_size(images), settings), other)

    return Kind(drawn, edited)


def _jitter(batch, seed, settings):
    return color.sample(batch, settings.jitter, seed) if settings.jitter else None


def _levels(batch, seed, settings):
    return random.uniform([batch, 3], seed, 0.0, 1.0)


def erase_kind(shape: Shape, fill: Callable) -> Kind:
    """Returns the kind that fills patches of a shape, by a function of `erase`."""
    return patch_kind(shape, _levels, fill)


def _either(first, second):
    """One of two kinds, with equal chances for each image: the union of Section 5.2."""

    def drawn(batch, size, seed, settings, counts=None):
        choice, *seeds = random.split(seed, 3)
        return (
            random.uniform([batch], choice, 0.0, 1.0) < 0.5,
            first.draw(batch, size, seeds[0], settings, counts),
            second.draw(batch, size, seeds[1], settings, counts),
        )

    def edited(images, drawn, settings):
        take_first, *parts = drawn
        edits = [k.edit(images, d, settings) for k, d in zip((first, second), parts, strict=True)]
        return paste.either(*edits, take_first)

    return Kind(drawn, edited)


@dataclasses.dataclass(frozen=True)
class ViewClass:
    """One class of a proxy task."""

    name: str  # in figures
    kind: Kind | None = None  # the edit that makes the view of the input view
    turns: int = 0  # quarter turns of the view, counter-clockwise


NORMAL = ViewClass("normal")
CUTPASTE = ViewClass("CutPaste", patch_kind(RECTANGLE, _jitter, paste.cut))
SCAR = ViewClass("CutPaste-Scar", patch_kind(THIN, _jitter, paste.cut))

TASKS: dict[str, tuple[ViewClass, ...]] = {
    # Section 4.1.
    "rotation": (NORMAL, *(ViewClass(f"turned by {90 * k} degrees", turns=k) for k in (1, 2, 3))),
    "cutout": (NORMAL, ViewClass("Cutout", erase_kind(RECTANGLE, erase.fill_with_grey))),
    "cutout_mean": (
        NORMAL,
        ViewClass("Cutout (mean)", erase_kind(RECTANGLE, erase.fill_with_mean)),
    ),
    "cutout_color": (
        NORMAL,
        ViewClass("Cutout (color)", erase_kind(RECTANGLE, erase.fill_with_color)),
    ),
    "confetti": (NORMAL, ViewClass("Confetti", erase_kind(RECTANGLE, erase.shift_color))),
    "scar": (NORMAL, ViewClass("Scar", erase_kind(THIN, erase.fill_with_color))),
    "cutpaste": (NORMAL, CUTPASTE),
    "cutpaste_scar": (NORMAL, SCAR),
    # Section 5.2: a binary task.
    "cutpaste_union": (NORMAL, ViewClass("CutPaste or -Scar", _either(CUTPASTE.kind, SCAR.kind))),
    "cutpaste_3way": (NORMAL, CUTPASTE, SCAR),
}


# Nothing here branches on a tensor's value, and AutoGraph would take seconds to find that out.
@tf.autograph.experimental.do_not_convert
def make_views(
    images: tf.Tensor,
    task: str,
    seed: tf.Tensor,
    settings: Settings | None = None,
    *,
    jit_compile: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Makes the views of a batch and their labels (Equation 1).

    Every image is first translated and jittered. Its views of all classes start from that one
    input view, so that they differ in the proxy task's edit alone.

    Args:
      images: floating point [B, H, W, 3] in [0, 1], or uint8; H, W static, and equal for
        "rotation".
      task: a name in `TASKS`, with K classes.
      seed: int32 [2], as in tf.random.stateless_uniform.
      settings: the ranges; the paper's by default.
      jit_compile: whether XLA compiles what works on pixels. On a CPU, compiling takes a second or
        two and at least doubles the rate; the views are the same but for rounding.

    Returns:
      Views [K * B, H, W, 3], class by class, and labels, int32 [K * B]. Views keep the images'
      dtype, but views of bytes are float32 in [0, 1]. With `patch_size`, H and W are the crop's.

    Raises:
      ValueError: if the task is unknown or the images have another shape.
    """
    settings = Settings() if settings is None else settings
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, not {task!r}")
    images = tf.convert_to_tensor(images)
    if images.shape.rank != 4 or images.shape[-1] != 3:
        raise ValueError(f"images must be [B, H, W, 3], not {images.shape}")
    seed = tf.convert_to_tensor(seed)
    drawn = draw_views(tf.shape(images)[0], paste.static_size(images), task, seed, settings)
    return apply_views(images, drawn, task, settings, jit_compile=jit_compile)


@tf.autograph.experimental.do_not_convert
def draw_views(
    batch: int | tf.Tensor,
    image_size: tuple[int, int],
    task: str,
    seed: tf.Tensor,
    settings: Settings,
    region: tf.Tensor | None = None,
) -> Drawn:
    """Draws what happens to each image of a batch; no pixel is touched.

    Patches are cut and pasted in the images' regions of interest, bool [B, H, W], which move with
    the images; None: anywhere. Patch models have no regions. Returns the input views, the edit of
    each class or None, and the input views' regions or None: all tensors are [B, ...].
    """
    size = (settings.patch_size,) * 2 if settings.patch_size else image_size
    crop_seed, view_seed, *seeds = random.split(seed, 2 + len(TASKS[task]))
    crops = None
    if settings.patch_size:
        crops = view.draw_crops(batch, image_size, settings.patch_size, crop_seed)
    ranges = {"translation": settings.translation, "jitter": settings.view_jitter}
    input_view, counts = view.draw(batch, size, view_seed, **ranges, crops=crops), None
    if region is not None:
        input_view, region = view.move_region(region, input_view, size)
        counts = paste.count_pixels(region)
    edits = [
        cls.kind and cls.kind.draw(batch, size, class_seed, settings, counts)
        for cls, class_seed in zip(TASKS[task], seeds, strict=True)
    ]
    return input_view, edits, region


@tf.autograph.experimental.do_not_convert
def apply_views(
    images: tf.Tensor, drawn: Drawn, task: str, settings: Settings, *, jit_compile: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """Makes the views that `draw_views` drew, and their labels, as `make_views` returns them."""
    views = _compiled(task, settings) if jit_compile else functools.partial(_views, task, settings)
    size = (settings.patch_size,) * 2 if settings.patch_size else paste.static_size(images)
    number = len(TASKS[task])
    labels = tf.repeat(tf.range(number), tf.shape(images)[0])
    static = None if images.shape[0] is None else number * images.shape[0]
    return (
        tf.ensure_shape(views(images, drawn), [static, *size, 3]),
        tf.ensure_shape(labels, [static]),
    )


def _views(task, settings, images, drawn):
    """Makes the views, [K * B, H, W, 3], that were drawn."""
    input_view, edits, region = drawn
    classes, batch = TASKS[task], tf.shape(images)[0]
    size = (settings.patch_size,) * 2 if settings.patch_size else paste.static_size(images)
    inputs = view.apply(images, input_view, size)
    edits = [
        (label * batch, cls.kind.edit(inputs, edit, settings))
        for label, (cls, edit) in enumerate(zip(classes, edits, strict=True))
        if cls.kind
    ]
    unedited = tf.concat([_turn(inputs, cls.turns) for cls in classes], axis=0)
    views = paste.write(unedited, edits)
    if region is None:
        return views
    # What is turned is not edited, so that regions need not be turned.
    return tf.where(tf.tile(region, [len(classes), 1, 1])[..., None], views, unedited)


@functools.cache
def _compiled(task, settings):
    return tf.function(functools.partial(_views, task, settings), jit_compile=True, autograph=False)


def _turn(images, turns):
    """Turns images, [B, H, W, C], counter-clockwise by quarter turns."""
    if turns and images.shape[1] != images.shape[2]:
        raise ValueError(f"images must be square to be turned, not {images.shape}")
    if turns % 2:
        images = tf.transpose(images, [0, 2, 1, 3])  # a quarter turn, mirrored
    # What is left is a reflection, of rows or columns, or half a turn, of both.
    flipped = {0: [], 1: [1], 2: [1, 2], 3: [2]}[turns % 4]
    return tf.reverse(images, flipped) if flipped else images
