"""What settings can be: the names that they choose from, and the rules for their values."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

MVTEC_TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
MVTEC_OBJECTS = (
    *("bottle", "cable", "capsule", "hazelnut", "metal_nut"),
    *("pill", "screw", "toothbrush", "transistor", "zipper"),
)
# Appendix A.5: the objects in the same pose in all images, scored by a density for each location.
MVTEC_ALIGNED = tuple(name for name in MVTEC_OBJECTS if name not in ("hazelnut", "screw"))
# Section 5.4; in TensorFlow Datasets' order.
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
# Categories of each data set; a folder's are whatever the user has there.
CATEGORIES: dict[str, tuple[str, ...] | None] = {
    "mvtec_ad": MVTEC_TEXTURES + MVTEC_OBJECTS,
    "folder": None,
    "elpv": ("mono", "poly"),
    "textures": ("brick", "grass", "gravel"),
    "cifar10": CIFAR10_CLASSES,
}
# Data sets that come as Python packages and need no --data_dir.
PACKAGED = ("elpv", "textures")
_EFFICIENTNETS = tuple(f"efficientnet_b{number}" for number in range(8))
_LITES = tuple(f"efficientnet_lite{number}" for number in range(5))
BACKBONES = ("resnet18", *_EFFICIENTNETS, *_LITES)
# Those that --weights=imagenet has weights for: Keras's, or a package's.
WITH_IMAGENET_WEIGHTS = (*_EFFICIENTNETS, *_LITES[:3])
FEATURES = ("pool", "level7", "level8")  # pool: the last; the others are EfficientNet's before it
# Of --maps=features: the networks' stages, by the names of their layers.
MAP_LEVELS_OF_RESNET = tuple(f"conv{number}" for number in range(2, 6))
MAP_LEVELS_OF_EFFICIENTNET = tuple(f"block{number}" for number in range(1, 8))
# The proxy tasks, and which of the settings of an edit each uses.
TASKS: dict[str, tuple[str, ...]] = {
    "rotation": (),
    "cutout": ("area_ratio",),
    "cutout_mean": ("area_ratio",),
    "cutout_color": ("area_ratio",),
    "confetti": ("area_ratio",),
    "scar": (),
    "cutpaste": ("jitter", "area_ratio"),
    "cutpaste_scar": ("jitter",),
    "cutpaste_union": ("jitter", "area_ratio"),
    "cutpaste_3way": ("jitter", "area_ratio"),
}
GAUSSIANS = ("gde", "gmm")  # a single one each: their score is a distance
_MOST_COMPONENTS = 32
_DENSITIES = (*GAUSSIANS, "kde", *(f"gmm{count}" for count in range(2, _MOST_COMPONENTS + 1)))
# Section 5.3's synthetic test sets: shapes of random colour, or filled with natural images.
_SHAPES = ("square", "ellipse", "heart")
TEST_ANOMALIES = ("mnist", *_SHAPES, *(f"{shape}_natural" for shape in _SHAPES))


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a setting accepts: a sentence for the message, and the test."""

    allowed: str
    test: Callable[[Any], bool]


ANY = Rule("any text", lambda text: True)
NOT_EMPTY = Rule("a text that is not empty", bool)
BOOLEAN = Rule("true or false", lambda value: True)


def one_of(names: Sequence[str]) -> Rule:
    """Accepts some texts."""
    return Rule(f"one of {', '.join(names)}", lambda value: value in names)


def some_of(names: Sequence[str], *alone: str) -> Rule:
    """Accepts one of the texts that stand alone, or some of the names, separated by commas."""
    return Rule(
        f"{', '.join(alone)}, or some of {', '.join(names)}, separated by commas",
        lambda text: text in alone or set(text.split(",")) <= set(names),
    )


def whole(low: int, high: int | None = None) -> Rule:
    """Accepts whole numbers."""
    if high is None:
        return Rule(f"a whole number, at least {low}", lambda value: value >= low)
    return Rule(f"a whole number from {low} to {high}", lambda value: low <= value <= high)


def real(low: float, high: float) -> Rule:
    """Accepts numbers."""
    return Rule(f"a number from {low:g} to {high:g}", lambda x: low <= x <= high)


def positive(high: float) -> Rule:
    """Accepts numbers above zero."""
    return Rule(f"a number above 0, at most {high:g}", lambda x: 0.0 < x <= high)


IMAGE_SIZE = Rule(
    "a whole number from 32 to 4096, or two, HEIGHTxWIDTH",
    lambda sides: len(sides) in (1, 2) and all(32 <= side <= 4096 for side in sides),
)
TILES = Rule(
    "ROWSxCOLUMNS, whole numbers from 1 to 64",
    lambda counts: len(counts) == 2 and all(1 <= count <= 64 for count in counts),
)
# From 32 on CutPaste-Scar's longest scar fits into a patch.
PATCH_SIZE = Rule("0 or a whole number from 32 to 1024", lambda x: x == 0 or 32 <= x <= 1024)
WEIGHTS = Rule(
    "none, imagenet, or a file ending in .weights.h5 or .keras",
    lambda text: text in ("none", "imagenet") or text.endswith((".weights.h5", ".keras")),
)
HEAD_DIMS = Rule(
    "one or more whole numbers of at least 1, separated by commas",
    lambda dims: len(dims) > 0 and min(dims) >= 1,
)
AREA_RATIO = Rule(
    "two numbers LOW,HIGH with 0.0001 <= LOW <= HIGH <= 0.3",
    lambda pair: len(pair) == 2 and 0.0001 <= pair[0] <= pair[1] <= 0.3,
)
VIEW_JITTER = Rule(
    "one number from 0 to 0.5, or three, separated by commas",
    lambda values: len(values) in (1, 3) and all(0.0 <= x <= 0.5 for x in values),
)
DENSITY = Rule(
    f"one or more of gde, gmm, kde and gmm2 to gmm{_MOST_COMPONENTS}, separated by commas",
    lambda text: (
        set(text.split(",")) <= set(_DENSITIES)
        and len(set(text.split(","))) == len(text.split(","))
    ),
)
