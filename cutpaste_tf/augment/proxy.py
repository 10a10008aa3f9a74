"""The proxy tasks: which views a task shows the network, and which class each view is of.

A task is a tuple of its classes, in the order of their labels. A class makes its view from the
input view by an edit of a few pixels, by turning it, or leaves it as it is.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from cutpaste_tf.augment import erase, paste, random, view


@dataclasses.dataclass(frozen=True)
class Settings:
    """The ranges that the views are drawn from; the paper's (Appendix A.2) by default.

    Attributes:
      jitter: maximum intensity of a pasted patch's colour jitter.
      area_ratio: smallest and largest share of the image that the CutPaste patch covers.
      scar_width: smallest and largest width of the scar, in pixels.
      scar_length: smallest and largest length of the scar, likewise.
      translation: largest random shift of the input, as a share of its side.
      view_jitter: maximum intensity of the input's colour jitter.
    """

    jitter: float = paste.JITTER
    area_ratio: tuple[float, float] = paste.AREA_RATIO
    scar_width: tuple[int, int] = paste.SCAR_WIDTH
    scar_length: tuple[int, int] = paste.SCAR_LENGTH
    # The paper gives no range for the input's own augmentation (Appendix A.1).
    translation: float = 0.04
    view_jitter: float = 0.1


def _cutpaste(images, seed, settings):
    return paste.cutpaste(images, seed, area_ratio=settings.area_ratio, jitter=settings.jitter)


def _cutpaste_scar(images, seed, settings):
    return paste.cutpaste_scar(
        images,
        seed,
        width=settings.scar_width,
        length=settings.scar_length,
        jitter=settings.jitter,
    )


def _union(images, seed, settings):
    """CutPaste or CutPaste-Scar, with equal chances: the union of Section 5.2."""
    choice, large, scar = random.split(seed, 3)
    take_large = random.uniform([tf.shape(images)[0]], choice, 0.0, 1.0) < 0.5
    return paste.either(
        _cutpaste(images, large, settings), _cutpaste_scar(images, scar, settings), take_large
    )


def _erase(fill):
    return lambda images, seed, settings: fill(images, seed, area_ratio=settings.area_ratio)


def _scar(images, seed, settings):
    return erase.scar(images, seed, width=settings.scar_width, length=settings.scar_length)


@dataclasses.dataclass(frozen=True)
class ViewClass:
    """One class of a proxy task.

    Attributes:
      name: what to call it in figures.
      edit: makes the edit that tells the view from the input view; None: no pixel is changed.
      turns: by how many quarter turns, counter-clockwise, the view is turned.
    """

    name: str
    edit: Callable[[tf.Tensor, random.Seed, Settings], paste.Edit] | None = None
    turns: int = 0


NORMAL = ViewClass("normal")
CUTPASTE = ViewClass("CutPaste", _cutpaste)
SCAR = ViewClass("CutPaste-Scar", _cutpaste_scar)

TASKS: dict[str, tuple[ViewClass, ...]] = {
    # Gidaris et al. (the paper's [19]): which of the four quarter turns is it?
    "rotation": (NORMAL, *(ViewClass(f"turned by {90 * k} degrees", turns=k) for k in (1, 2, 3))),
    "cutout": (NORMAL, ViewClass("Cutout", _erase(erase.cutout))),
    "cutout_mean": (NORMAL, ViewClass("Cutout (mean)", _erase(erase.cutout_mean))),
    "cutout_color": (NORMAL, ViewClass("Cutout (color)", _erase(erase.cutout_color))),
    "confetti": (NORMAL, ViewClass("Confetti", _erase(erase.confetti))),
    "scar": (NORMAL, ViewClass("Scar", _scar)),
    "cutpaste": (NORMAL, CUTPASTE),
    "cutpaste_scar": (NORMAL, SCAR),
    # Section 5.2: binary, so an image has one augmented view, as batches of 64 rather than 96 say.
    "cutpaste_union": (NORMAL, ViewClass("CutPaste or -Scar", _union)),
    "cutpaste_3way": (NORMAL, CUTPASTE, SCAR),
}


# Nothing here branches on a tensor's value, and AutoGraph would take seconds to find that out.
@tf.autograph.experimental.do_not_convert
def make_views(
    images: tf.Tensor, task: str, seed: random.Seed, settings: Settings | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Makes the views of a batch and their labels (Equation 1).

    Every image is first translated and jittered; its views of all classes start from that one
    input view, so that they differ in the proxy task's edit alone.

    Args:
      images: floating point [B, H, W, 3] in [0, 1], or uint8; H, W static, and equal for
        "rotation".
      task: a name in `TASKS`, with K classes.
      seed: int32 [2], as in tf.random.stateless_uniform; the same seed gives the same views
        eagerly, in a tf.function, under jit_compile and in tf.data. Or a `random.Share`, where the
        images are a device's share of a batch: it makes the views that the whole batch would have.
      settings: the ranges; the paper's by default.

    Returns:
      Views [K * B, H, W, 3], class by class, in the images' dtype and range, float32 in [0, 1] of
      uint8 ones; labels int32 [K * B].

    Raises:
      ValueError: for an unknown task or images of another shape.
    """
    settings = Settings() if settings is None else settings
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, not {task!r}")
    if images.shape.rank != 4 or images.shape[-1] != 3:
        raise ValueError(f"images must be [B, H, W, 3], not {images.shape}")
    classes = TASKS[task]
    if not isinstance(seed, random.Share):
        seed = tf.convert_to_tensor(seed)
    view_seed, *seeds = random.split(seed, 1 + len(classes))
    images = view.augment(
        images, view_seed, translation=settings.translation, jitter=settings.view_jitter
    )
    batch = tf.shape(images)[0]
    edits = [
        (label * batch, cls.edit(images, seeds[label], settings))
        for label, cls in enumerate(classes)
        if cls.edit is not None
    ]
    views = tf.concat([_turn(images, cls.turns) for cls in classes], axis=0)
    views = paste.write(views, edits)
    labels = tf.repeat(tf.range(len(classes)), batch)
    static = None if images.shape[0] is None else len(classes) * images.shape[0]
    return (
        tf.ensure_shape(views, [static, *images.shape[1:]]),
        tf.ensure_shape(labels, [static]),
    )


def _turn(images, turns):
    """Turns images, [B, H, W, C], counter-clockwise by quarter turns."""
    if turns and images.shape[1] != images.shape[2]:
        raise ValueError(f"images must be square to be turned, not {images.shape}")
    if turns % 2:
        images = tf.transpose(images, [0, 2, 1, 3])  # a quarter turn, mirrored
    # What is left is a reflection, of rows or columns, or half a turn, of both.
    flipped = {0: [], 1: [1], 2: [1, 2], 3: [2]}[turns % 4]
    return tf.reverse(images, flipped) if flipped else images
