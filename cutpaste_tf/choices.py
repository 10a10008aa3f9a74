"""What settings can be: names to choose from, rules for single values, rules for several."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

MVTEC_TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
MVTEC_OBJECTS = (
    *("bottle", "cable", "capsule", "hazelnut", "metal_nut"),
    *("pill", "screw", "toothbrush", "transistor", "zipper"),
)
# Appendix A.5: objects in the same pose in all images, scored by a density for each place.
MVTEC_ALIGNED = tuple(name for name in MVTEC_OBJECTS if name not in ("hazelnut", "screw"))
# Section 5.4, in the order of TensorFlow Datasets.
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
# The categories of each data set. Those of "folder" are the folders that the user has.
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
# The backbones for which Keras or the extra "lite" has ImageNet weights.
WITH_IMAGENET_WEIGHTS = (*_EFFICIENTNETS, *_LITES[:3])
FEATURES = ("pool", "level7", "level8")  # level7 and level8 are EfficientNet's blocks 6 and 7
# The blocks of each backbone whose feature maps --maps=features can use.
MAP_LEVELS = dict.fromkeys(BACKBONES, tuple(f"block{number}" for number in range(1, 8))) | {
    "resnet18": tuple(f"conv{number}" for number in range(2, 6))
}
# The proxy tasks, and the settings of the pasted or erased area that each of them uses.
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
GAUSSIANS = ("gde", "gmm")  # densities of one Gaussian, whose score is a distance
_DENSITIES = (*GAUSSIANS, "kde")
# Section 5.3's synthetic test sets: shapes of random colour, or filled with natural images.
_SHAPES = ("square", "ellipse", "heart")
TEST_ANOMALIES = ("mnist", *_SHAPES, *(f"{shape}_natural" for shape in _SHAPES))


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a setting accepts: in words for messages, and as a test."""

    allowed: str
    test: Callable[[Any], bool]


ANY = Rule("any text", lambda text: True)
NOT_EMPTY = Rule("a text that is not empty", bool)
BOOLEAN = Rule("true or false", lambda value: True)


def one_of(*names: str) -> Rule:
    """Accepts one of the texts."""
    return Rule(f"one of {', '.join(names)}", lambda value: value in names)


def some_of(names: Sequence[str], *alone: str) -> Rule:
    """Accepts some of the names, separated by commas, or one of the texts `alone`."""
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
# A patch of 32 pixels has room for CutPaste-Scar's longest scar.
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
    f"one or more of {', '.join(_DENSITIES)}, separated by commas",
    lambda text: set(text.split(",")) <= set(_DENSITIES),
)


def _for_tasks(name):
    """The row in `_ONLY_FOR` of a setting that some proxy tasks use."""
    tasks = [task for task, names in TASKS.items() if name in names]
    return name, f"--task={', '.join(tasks)}", lambda config: config.task in tasks


# Rows of: settings that only some runs use, those runs in words, whether a config is such a run.
_ONLY_FOR = (
    ("data_dir", "data sets without a package", lambda c: c.dataset not in PACKAGED),
    ("width stem patch_size", "--backbone=resnet18", lambda c: c.backbone == "resnet18"),
    ("features", "EfficientNets", lambda c: c.backbone != "resnet18"),
    ("finetune_learning_rate", "--finetune_steps", lambda c: c.finetune_steps > 0),
    ("keep_pretrained", "--weights", lambda c: c.weights != "none"),
    ("keep_pretrained", "runs with --steps above 0", lambda c: c.steps > 0),
    ("keep_pretrained resize tiles roi density", "whole images", lambda c: not c.patch_size),
    ("test_anomalies", "runs without --tiles", lambda c: c.tiles == (1, 1)),
    ("test_anomalies", "runs without --roi and --resize=pad", lambda c: not c.masked),
    ("dense_stride", "--patch_size", lambda c: c.patch_size > 0),
    ("map_levels image_score", "--maps=features", lambda c: c.maps == "features"),
    ("location_density", "--maps=features or patches", lambda c: c.maps in ("features", "patches")),
    _for_tasks("area_ratio"),
    _for_tasks("jitter"),
    # With several GPUs, Keras's loss scaling differs from one to the other, and XLA cannot compile
    # their communication.
    ("mixed_precision jit_compile", "--distribution=none", lambda c: c.distribution == "none"),
)


def check_together(config) -> None:
    """Refuses values of a `config.Config` that are allowed alone but not together."""
    for names, words, uses in _ONLY_FOR:
        for name in names.split():
            if getattr(config, name) != getattr(type(config), name) and not uses(config):
                config.refuse(name, f"is only for {words}; leave it out")
    if config.weights == "imagenet" and config.backbone not in WITH_IMAGENET_WEIGHTS:
        config.refuse("weights", f"has no weights for --backbone={config.backbone}")
    if (config.maps == "patches") != bool(config.patch_size):
        config.refuse("maps", "--maps=patches needs --patch_size, which allows no other maps")
    if config.maps == "gradcam" and config.main_density not in GAUSSIANS:
        config.refuse("density", "--maps=gradcam needs gde or gmm as the first density")
    if config.tiles != (1, 1) and "," in config.density:
        config.refuse("density", "--tiles allows only one density")
    if config.task == "rotation" and len(set(config.input_shape)) > 1:
        config.refuse("image_size", "--task=rotation needs a square")
    levels = MAP_LEVELS[config.backbone]
    if not set(config.levels) <= set(levels):
        config.refuse("map_levels", f"--backbone={config.backbone} has {', '.join(levels)}")
    if config.patch_size:
        _check_patches(config)


def _check_patches(config):
    """Refuses settings that a patch model cannot use."""
    if config.location_density in ("nearby", "nearest"):
        config.refuse("location_density", "with --patch_size must be auto, shared or separate")
    size = config.flag("image_size")
    if config.patch_size > min(config.size):
        config.refuse("patch_size", f"must fit into {size}")
    for length in (side - config.dense_patch for side in config.size):
        if rest := length % config.dense_stride:
            reason = f"leaves {rest} pixels of {size} without a patch; must divide {length}"
            config.refuse("dense_stride", reason)
