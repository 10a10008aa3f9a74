"""The proxy tasks: which views a task shows the network, and which class each view is of.

A task is a tuple of its classes, in the order of their labels. A class makes its view from the
input view by an edit of a few pixels, or leaves it as it is.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from cutpaste_tf.augment import paste, random, view


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


@dataclasses.dataclass(frozen=True)
class ViewClass:
    """One class of a proxy task: its name and the edit that makes it (None: the input view)."""

    name: str
    edit: Callable[[tf.Tensor, tf.Tensor, Settings], paste.Edit] | None


NORMAL = ViewClass("normal", None)
CUTPASTE = ViewClass("CutPaste", _cutpaste)
SCAR = ViewClass("CutPaste-Scar", _cutpaste_scar)

TASKS: dict[str, tuple[ViewClass, ...]] = {
    "cutpaste": (NORMAL, CUTPASTE),
    "cutpaste_scar": (NORMAL, SCAR),
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
      images: floating point [B, H, W, 3] in [0, 1]; H, W static.
      task: a name in `TASKS`, with K classes.
      seed: int32 [2], as in tf.random.stateless_uniform; the same seed gives the same views
        eagerly, in a tf.function, under jit_compile and in tf.data. Or a `random.Share`, where the
        images are a device's share of a batch: it makes the views that the whole batch would have.
      settings: the ranges; the paper's by default.

    Returns:
      Views [K * B, H, W, 3], class by class, in the images' dtype and range; labels int32 [K * B].

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
    views = paste.write(tf.concat([images] * len(classes), axis=0), edits)
    labels = tf.repeat(tf.range(len(classes)), batch)
    static = None if images.shape[0] is None else len(classes) * images.shape[0]
    return (
        tf.ensure_shape(views, [static, *images.shape[1:]]),
        tf.ensure_shape(labels, [static]),
    )
