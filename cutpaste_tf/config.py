"""The settings of a run, a frozen dataclass, and the check of every value.

Each field of `Config` declares its flag's default, help and allowed values once; the flags, the
checks and the JSON form follow from that. Nothing here imports TensorFlow, so that `--help` and a
wrong flag answer at once.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
from typing import Any

from cutpaste_tf import rules
from cutpaste_tf.files import UserError, as_text

MVTEC_TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
MVTEC_OBJECTS = (
    "bottle",
    "cable",
    "capsule",
    "hazelnut",
    "metal_nut",
    "pill",
    "screw",
    "toothbrush",
    "transistor",
    "zipper",
)
# Appendix A.5: the objects in the same pose in all images, scored by a density for each location.
MVTEC_ALIGNED = tuple(name for name in MVTEC_OBJECTS if name not in ("hazelnut", "screw"))
# Section 5.4; in TensorFlow Datasets' order.
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
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
# Of --maps=features: the networks' stages, by the names of their layers.
MAP_LEVELS_OF_RESNET = tuple(f"conv{number}" for number in range(2, 6))
MAP_LEVELS_OF_EFFICIENTNET = tuple(f"block{number}" for number in range(1, 8))
MAP_LEVELS = MAP_LEVELS_OF_EFFICIENTNET + MAP_LEVELS_OF_RESNET
# Flags and the kinds of maps that they are of.
_MAPS_FLAGS = {
    "dense_patch": ("patches",),
    "dense_stride": ("patches",),
    "location_density": ("patches", "features"),
    "map_levels": ("features",),
    "image_score": ("features",),
}
BACKBONES = (
    "resnet18",
    *(f"efficientnet_b{number}" for number in range(8)),
    *(f"efficientnet_lite{number}" for number in range(5)),
)
# Those that --weights=imagenet has weights for: Keras's, or a package's.
WITH_IMAGENET_WEIGHTS = (
    *(f"efficientnet_b{number}" for number in range(8)),
    *(f"efficientnet_lite{number}" for number in range(3)),
)
# The proxy tasks, and which of the ranges of views each draws from.
_SCAR_SIZES = ("scar_width", "scar_length")
TASKS: dict[str, tuple[str, ...]] = {
    "rotation": (),
    "cutout": ("area_ratio",),
    "cutout_mean": ("area_ratio",),
    "cutout_color": ("area_ratio",),
    "confetti": ("area_ratio",),
    "scar": _SCAR_SIZES,
    "cutpaste": ("jitter", "area_ratio"),
    "cutpaste_scar": ("jitter", *_SCAR_SIZES),
    "cutpaste_union": ("jitter", "area_ratio", *_SCAR_SIZES),
    "cutpaste_3way": ("jitter", "area_ratio", *_SCAR_SIZES),
}
LEVELS = ("level7", "level8")  # EfficientNet's features before the last
DENSITIES = ("gde", "gmm", "kde")
GAUSSIANS = ("gde", "gmm")  # a single one each: their score is a distance
MOST_COMPONENTS = 32
# Section 5.3's synthetic test sets: shapes of random colour, or filled with natural images.
_SHAPES = ("square", "ellipse", "heart")
TEST_ANOMALIES = ("mnist", *_SHAPES, *(f"{shape}_natural" for shape in _SHAPES))
# Raised when the same settings come to mean other numbers, so that no two versions' runs are mixed.
FORMAT = 4
EPOCH_STEPS = 256  # Footnote 5: the paper calls 256 parameter updates an epoch.


def _is_density(name: str) -> bool:
    mixtures = {f"gmm{count}" for count in range(2, MOST_COMPONENTS + 1)}
    return name in DENSITIES or name in mixtures


def _field(group: str, default: Any, rule: rules.Rule, help_text: str, between: str = ",") -> Any:
    """A setting; `between` stands between the numbers of one that has several."""
    metadata = {"group": group, "rule": rule, "help": help_text, "between": between}
    return dataclasses.field(default=default, metadata=metadata)


# How --help groups the flags; in each group those that a beginner needs come first.
GROUPS = {
    "data": "what to train on, and where the runs go",
    "training": "how long and how fast",
    "network": "the backbone and its head",
    "views": "the proxy task and its ranges",
    "density": "what scores are of, and when one is anomalous",
    "maps": "where in an image it is anomalous",
    "machine": "what it is computed on",
}
_data, _training, _network, _views, _density, _maps, _machine = (
    functools.partial(_field, group) for group in GROUPS
)


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of one run: one category, one seed.

    The defaults are the paper's (Appendix A.1 and A.2) where it gives a value. Where it gives none
    they are what was best on several real sets in minutes on a CPU, and its flag files pin others.

    Raises:
      UserError: if a value is not allowed; the message names the flag, the value and what is
        allowed.
    """

    # Data
    dataset: str = _data(
        "mvtec_ad", rules.choice(*CATEGORIES), "the data set; folder: any folder in MVTec layout"
    )
    data_dir: str = _data(
        "",
        rules.ANY,
        "where the images are (mvtec_ad: the extracted folder or the archive's; cifar10: that of "
        "TensorFlow Datasets, which has a default)",
    )
    category: str = _data("all", rules.ANY, "one or more categories, separated by commas, or all")
    image_size: tuple[int, ...] = _data(
        (256,),
        rules.Rule(
            "a whole number from 32 to 4096, or two, HEIGHTxWIDTH",
            lambda sides: len(sides) in (1, 2) and all(32 <= side <= 4096 for side in sides),
        ),
        "images are resized to this height and width, in pixels; HEIGHTxWIDTH where they differ",
        between="x",
    )
    workdir: str = _data("runs", rules.ANY, "runs are written to WORKDIR/CATEGORY/seed_N")
    resize: str = _data(
        "squash",
        rules.choice("squash", "pad", "crop"),
        "how an image of another shape gets there; squash: its shape gives way; pad: it keeps its "
        "shape, and what is left over has no part in anything; crop: it keeps its shape, and what "
        "hangs over is cut off",
    )
    tiles: tuple[int, ...] = _data(
        (1, 1),
        rules.Rule(
            "ROWSxCOLUMNS, whole numbers from 1 to 64",
            lambda counts: len(counts) == 2 and all(1 <= count <= 64 for count in counts),
        ),
        "cuts images into ROWSxCOLUMNS tiles, each of --image_size: for defects that would be gone "
        "at that size; an image's score is its largest tile's",
        between="x",
    )
    tile_overlap: float = _data(
        0.125,
        rules.real(0.0, 0.5),
        "what tiles beside each other have in common, as a share of a tile's side",
    )
    roi: str = _data(
        "none",
        rules.ANY,
        "the region of interest, in the frame of every image: a mask's file, not zero inside; "
        "auto: all but a fixed background; none: everything; what lies outside has no part in "
        "views, maps, metrics and scores",
    )
    bit_depth: str = _data(
        "auto",
        rules.choice("auto", "8", "10", "12", "14", "16"),
        "of images with 16 bits, how many of them the camera fills; auto: as many as the training "
        "images do",
    )
    allow_changed_data: bool = _data(
        False,
        rules.BOOLEAN,
        "go on with an interrupted run though its images have changed since it was begun, and skip "
        "a finished one all the same",
    )

    # Training
    steps: int = _training(
        65536,
        rules.whole(0),
        "parameter updates; 0: evaluate the initial weights; left out where there are two stages",
    )
    batch_size: int = _training(
        32,
        rules.whole(1),
        "normal images a step; the model sees each once per class of the task (32 gives the "
        "paper's 64, or 96 for 3-way)",
    )
    seed: int = _training(0, rules.whole(0, 2**31 - 1), "one or more seeds, separated by commas")
    learning_rate: float = _training(
        0.03, rules.real(0.0, 100.0, above=True), "initial learning rate; falls to zero as a cosine"
    )
    head_steps: int = _training(
        0,
        rules.whole(0),
        "parameter updates of the first of two stages, which trains the head alone",
    )
    finetune_steps: int = _training(
        0,
        rules.whole(0),
        "parameter updates of the second of two stages, which trains all but batch normalisation",
    )
    finetune_learning_rate: float = _training(
        0.0001,
        rules.real(0.0, 100.0, above=True),
        "initial learning rate of the second stage, likewise",
    )
    keep_pretrained: bool = _training(
        False,
        rules.BOOLEAN,
        "keep the pretrained network beside the trained one: features are of both, side by side, "
        "so that training takes little away from what --weights brought; an image takes twice the "
        "time to score",
    )
    momentum: float = _training(0.9, rules.real(0.0, 0.999), "momentum of SGD")
    weight_decay: float = _training(
        0.00003, rules.real(0.0, 1.0), "L2 coefficient: of half the square of all weights' norm"
    )
    eval_every: int = _training(
        32, rules.whole(0), "epochs of 256 steps between AUROCs in TensorBoard; 0: never"
    )
    evaluate_untrained: bool = _training(
        True,
        rules.BOOLEAN,
        "measure the network before its training, too",
    )

    # Network
    backbone: str = _network("resnet18", rules.choice(*BACKBONES), "the network")
    weights: str = _network(
        "none",
        rules.Rule(
            "none, imagenet, or a file ending in .weights.h5 or .keras",
            lambda value: (
                value in ("none", "imagenet") or value.endswith((".weights.h5", ".keras"))
            ),
        ),
        "the backbone's initial weights; imagenet: Keras's, for EfficientNet-B0 to B7, or those of "
        "an installed package, for EfficientNet-Lite0 to Lite2; a file: such as another "
        "run's checkpoints/backbone.weights.h5",
    )
    width: float = _network(
        1.0, rules.real(0.0, 4.0, above=True), "multiplies ResNet-18's channels"
    )
    stem: str = _network(
        "large",
        rules.choice("large", "small"),
        "ResNet-18's first layer; large: 7x7 stride 2 and max-pooling; small: 3x3 stride 1, "
        "sixteen times the work",
    )
    stochastic_depth: float = _network(
        0.2,
        rules.real(0.0, 0.9),
        "EfficientNet's stochastic depth: in training an image's pass leaves out block b of n with "
        "b/n of this probability",
    )
    head_dims: tuple[int, ...] = _network(
        (128,),
        rules.Rule(
            "one or more whole numbers of at least 1, separated by commas",
            lambda dims: len(dims) > 0 and min(dims) >= 1,
        ),
        "units of the projection head's layers; all but the last have batch normalisation and "
        "ReLU (512,128 in the paper's flag files)",
    )

    # Views
    task: str = _views("cutpaste_3way", rules.choice(*TASKS), "the proxy task")
    area_ratio: tuple[float, ...] = _views(
        (0.02, 0.15),
        rules.interval(0.0001, 0.3),
        "smallest and largest area of the CutPaste patch, as a share of the image",
    )
    scar_width: tuple[int, ...] = _views(
        (2, 16),
        rules.interval(1, 64, whole=True),
        "CutPaste-Scar's smallest and largest width, in pixels",
    )
    scar_length: tuple[int, ...] = _views(
        (10, 25),
        rules.interval(2, 128, whole=True),
        "CutPaste-Scar's smallest and largest length, in pixels",
    )
    jitter: float = _views(
        0.1, rules.real(0.0, 0.5), "maximum intensity of the colour jitter on a pasted patch"
    )
    translation: float = _views(
        0.0,
        rules.real(0.0, 0.5),
        "maximum random translation of the input, as a share of its side (0.125 in the paper's "
        "flag files)",
    )
    view_jitter: tuple[float, ...] = _views(
        (0.0,),
        rules.Rule(
            "one number from 0 to 0.5, or three, separated by commas",
            lambda values: len(values) in (1, 3) and all(0.0 <= x <= 0.5 for x in values),
        ),
        "maximum intensity of the colour jitter on the input; three: of brightness, contrast and "
        "saturation (0.125,0.4,0.4 in the paper's flag files)",
    )
    independent_views: bool = _views(
        False,
        rules.BOOLEAN,
        "translate and jitter the input anew for each class of the task, rather than once",
    )

    # Density
    features: str = _density(
        "pool",
        rules.choice("pool", *LEVELS),
        "what the density and the scores are of; pool: the last convolution, averaged over space; "
        "level7: EfficientNet's block 6, likewise (the stem is level 1); level8: its block 7",
    )
    density: str = _density(
        "gde",
        rules.Rule(
            f"one or more of {', '.join(DENSITIES)} and gmm2 to gmm{MOST_COMPONENTS}, separated by "
            "commas",
            lambda text: (
                all(map(_is_density, text.split(",")))
                and len(set(text.split(","))) == text.count(",") + 1
            ),
        ),
        "density of the normal features; gde: Gaussian with Ledoit-Wolf shrinkage; gmm: the "
        "companion code's, a Gaussian on features of unit length; kde: its kernel density, "
        "likewise; gmm4: mixture of four Gaussians, with shrinkage; of several the first is the "
        "run's, and the others are fitted to the same features and measured beside it",
    )
    false_positive_rate: float = _density(
        0.01,
        rules.real(0.0, 0.5),
        "share of normal images that the run's threshold is to take for anomalous; can be changed "
        "when images are scored; 0: no threshold, and none of the cross-validation that it is of, "
        "which takes a separate patch model five times as long as its density",
    )
    tile_density: str = _density(
        "shared",
        rules.choice("shared", "separate"),
        "--tiles: one density for all tiles, or a separate one for each, for aligned objects",
    )
    test_anomalies: str = _density(
        "none",
        rules.some(TEST_ANOMALIES, "none", "all"),
        "synthetic anomalies, made from the normal test images, to test on besides (Section 5.3); "
        "a finished run is not trained again for them",
    )

    # Maps
    maps: str = _maps(
        "none",
        rules.choice("none", "gradcam", "features", "patches"),
        "anomaly maps; features: densities on the network's own feature maps, in the one pass that "
        "scores an image; gradcam: of what makes the image anomalous; patches: of a patch model, "
        "which --patch_size makes and which has no others",
    )
    map_levels: str = _maps(
        "auto",
        rules.some(MAP_LEVELS, "auto"),
        "--maps=features: the blocks whose maps are taken, side by side: block1 to block7 of "
        "EfficientNet, conv2 to conv5 of ResNet-18; auto: block3,block5 or conv4",
    )
    image_score: str = _maps(
        "pooled",
        rules.choice("pooled", "map", "both"),
        "--maps=features: an image's score; pooled: of the pooled features, as in the paper; map: "
        "the largest of its map; both: the mean of the two, standardised by normal images' scores",
    )
    patch_size: int = _maps(
        0,
        rules.Rule("0 or a whole number from 16 to 1024", lambda x: x == 0 or 16 <= x <= 1024),
        "trains on random crops of this height and width (the paper: 64) and makes anomaly maps; "
        "the proxy task is applied to the crop; 0: whole images",
    )
    dense_patch: int = _maps(
        32,
        rules.whole(16, 1024),
        "a patch model's anomaly map: height and width of the scored patches",
    )
    dense_stride: int = _maps(
        4, rules.whole(1, 1024), "a patch model's anomaly map: distance between the scored patches"
    )
    location_density: str = _maps(
        "auto",
        rules.choice("auto", "shared", "nearby", "separate"),
        "the density of maps; shared: one for all places of an image; separate: one for each, for "
        "aligned objects; nearby, of --maps=features: one for each, of it and those around it; "
        "auto: nearby, or shared where tiles share a density; of a patch model separate for MVTec "
        "AD's aligned categories, else shared",
    )

    # Machine
    augment: str = _machine(
        "device",
        rules.choice("device", "pipeline"),
        "where views are made; device: in the train step; pipeline: in tf.data on the host",
    )
    mixed_precision: bool = _machine(
        False, rules.BOOLEAN, "compute in float16, keep weights in float32"
    )
    jit_compile: bool = _machine(False, rules.BOOLEAN, "compile the train step with XLA")
    distribution: str = _machine(
        "none",
        rules.choice("none", "mirrored", "multi_worker"),
        "mirrored: share each batch among all GPUs of this machine; multi_worker: among those of "
        "all machines in TF_CONFIG, where the same command runs; the result is one GPU's but for "
        "rounding and EfficientNet's stochastic depth",
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, tuple):
                # One number may stand by itself.
                value = (value,) if isinstance(value, (int, float)) else tuple(value)
                object.__setattr__(self, field.name, value)
            rule = field.metadata["rule"]
            if not _well_typed(value, field.default) or not rule.test(value):
                raise bad_value(field.name, value, rule)
        if self.dataset in PACKAGED and self.data_dir:
            raise UserError(
                f"--data_dir={self.data_dir}: --dataset={self.dataset} comes as a Python package; "
                "leave --data_dir out"
            )
        if self.dataset in ("mvtec_ad", "folder") and not self.data_dir:
            raise UserError(
                f"--data_dir: --dataset={self.dataset} needs the folder that holds the images"
            )
        for name in ("data_dir", "workdir"):
            if "\n" in getattr(self, name):
                raise UserError(f"--{name}: a path may not contain a line break")
            if as_text(getattr(self, name)) != getattr(self, name):
                raise UserError(f"--{name}={getattr(self, name)}: its name is not UTF-8; rename it")
        self._check_network()
        self._check_shape()
        self._check_maps()
        self._check_task()
        if not self.workdir:
            raise UserError("--workdir=: must name a folder")
        if self.mixed_precision and self.distribution != "none":
            # LossScaleOptimizer asks the first device alone whether the gradients are finite.
            raise UserError(
                f"--mixed_precision: Keras's loss scaling does not agree between the devices of "
                f"--distribution={self.distribution}; leave one of them out"
            )
        if self.jit_compile and self.distribution != "none":
            raise UserError(
                f"--jit_compile: XLA cannot compile what --distribution={self.distribution} sends "
                "between devices; leave one of them out"
            )

    def _check_network(self):
        efficient = self.backbone != "resnet18"
        if self.weights == "imagenet" and self.backbone not in WITH_IMAGENET_WEIGHTS:
            raise UserError(
                "--weights=imagenet: there are ImageNet weights for --backbone=efficientnet_b0 to "
                "efficientnet_b7 and efficientnet_lite0 to efficientnet_lite2, not for "
                f"--backbone={self.backbone}"
            )
        if self.features in LEVELS and not efficient:
            raise UserError(
                f"--features={self.features}: --backbone={self.backbone} has pool only; "
                f"{self.features} is EfficientNet's"
            )
        for name, owner, is_its in (
            ("width", "--backbone=resnet18", not efficient),
            ("stem", "--backbone=resnet18", not efficient),
            ("stochastic_depth", "EfficientNet", efficient),
        ):
            if not is_its and getattr(self, name) != _default(name):
                raise UserError(
                    f"--{name}={getattr(self, name)}: is of {owner}; leave it out with "
                    f"--backbone={self.backbone}"
                )
        if self.staged:
            total = self.head_steps + self.finetune_steps
            if self.steps not in (total, _default("steps")):
                raise UserError(
                    f"--steps={self.steps}: a training in two stages takes --head_steps + "
                    f"--finetune_steps = {total} steps; leave --steps out"
                )
            object.__setattr__(self, "steps", total)
        if self.keep_pretrained and (self.weights == "none" or not self.steps):
            raise UserError(
                "--keep_pretrained: is of a training that begins with --weights; leave it out"
            )

    def _check_shape(self):
        if self.tiles == (1, 1):
            for name in ("tile_overlap", "tile_density"):
                if getattr(self, name) != _default(name):
                    raise UserError(f"--{name}={getattr(self, name)}: is of --tiles")
        for name in ("tiles", "roi"):
            if self.patch_size and getattr(self, name) != _default(name):
                raise UserError(
                    f"--{name}={shown(self, name)}: a patch model takes images whole; leave it "
                    "out, or --patch_size, and take --maps=features"
                )
        if self.patch_size and self.resize == "pad":
            raise UserError("--resize=pad: a patch model's images are squashed or cropped")
        if self.test_anomalies != "none" and (self.masked or self.tiles != (1, 1)):
            raise UserError(
                f"--test_anomalies={self.test_anomalies}: are made in whole images; leave --tiles, "
                "--roi and --resize=pad out"
            )
        if self.tile_density == "separate" and self.density != "gde":
            raise UserError(f"--density={self.density}: of separate tiles it is gde")
        if self.tiles != (1, 1) and "," in self.density:
            raise UserError(f"--density={self.density}: of tiles there is one")
        if self.tile_density == "separate" and self.maps == "gradcam":
            raise UserError("--maps=gradcam: is of one density; leave --tile_density out")
        if not self.roi:
            raise UserError("--roi=: must be none, auto or a mask's file")

    def _check_task(self):
        used = TASKS[self.task]
        if self.task == "rotation" and len(set(self.input_shape)) > 1:
            raise UserError(
                f"--task=rotation: turns squares; --image_size={shown(self, 'image_size')} is none"
            )
        for name in sorted({name for names in TASKS.values() for name in names} - set(used)):
            if getattr(self, name) != _default(name):
                raise UserError(
                    f"--{name}={show(getattr(self, name))}: --task={self.task} does not use it; "
                    "leave it out"
                )
        # The diagonal of the largest scar, as augment.paste computes it without TensorFlow here.
        diagonal = math.ceil(math.hypot(self.scar_width[1], self.scar_length[1]))
        if "scar_length" in used and diagonal > min(self.input_shape):
            name = "patch_size" if self.patch_size else "image_size"
            raise UserError(
                f"--scar_length={show(self.scar_length)}: with --scar_width="
                f"{show(self.scar_width)} the scar must fit into --{name}={shown(self, name)}"
            )

    def _check_maps(self):
        if self.patch_size and self.maps == "none":
            object.__setattr__(self, "maps", "patches")
        if (self.maps == "patches") != bool(self.patch_size):
            raise UserError(
                f"--maps={self.maps}: a patch model has --maps=patches, and nothing else has; "
                "leave it out, or --patch_size"
            )
        for name, kinds in _MAPS_FLAGS.items():
            if self.maps not in kinds and getattr(self, name) != _default(name):
                raise UserError(
                    f"--{name}={getattr(self, name)}: is of --maps={' or '.join(kinds)}"
                )
        if self.maps == "gradcam" and self.main_density not in GAUSSIANS:
            raise UserError(
                f"--density={self.density}: GradCAM needs a Gaussian's distance; begin with gde"
            )
        if self.maps == "features":
            its = (
                MAP_LEVELS_OF_RESNET if self.backbone == "resnet18" else MAP_LEVELS_OF_EFFICIENTNET
            )
            if not set(self.levels) <= set(its):
                raise UserError(
                    f"--map_levels={self.map_levels}: --backbone={self.backbone} has "
                    f"{', '.join(its)}"
                )
        if self.patch_size:
            self._check_patches()

    def _check_patches(self):
        if self.keep_pretrained:
            raise UserError("--keep_pretrained: is of image-level models; leave --patch_size out")
        if self.backbone != "resnet18":
            raise UserError(
                f"--patch_size={self.patch_size}: patch models are of --backbone=resnet18, not "
                f"{self.backbone}"
            )
        if self.density != "gde":
            raise UserError(f"--density={self.density}: a patch model's density is gde")
        if self.location_density == "nearby":
            raise UserError("--location_density=nearby: a patch model has shared or separate")
        for name in ("patch_size", "dense_patch"):
            if getattr(self, name) > min(self.size):
                raise UserError(
                    f"--{name}={getattr(self, name)}: must fit into --image_size="
                    f"{shown(self, 'image_size')}"
                )
        for side in self.size:
            rest = (side - self.dense_patch) % self.dense_stride
            if rest:
                raise UserError(
                    f"--dense_stride={self.dense_stride}: leaves {rest} pixels of --image_size="
                    f"{shown(self, 'image_size')} without a patch of {self.dense_patch}; it must "
                    f"divide {side - self.dense_patch}"
                )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, in pixels, of a network's input: an image, or a tile of one."""
        return (self.image_size * 2)[:2]

    @property
    def input_shape(self) -> tuple[int, int]:
        """Height and width, in pixels, of what the network is trained on."""
        return (self.patch_size, self.patch_size) if self.patch_size else self.size

    @property
    def filled_bits(self) -> int:
        """Bits that images with 16 fill, as far as it is known."""
        return 16 if self.bit_depth == "auto" else int(self.bit_depth)

    @property
    def masked(self) -> bool:
        """Whether parts of the network's inputs may lie outside of what is looked at."""
        return self.roi != "none" or self.resize == "pad"

    @property
    def separate_locations(self) -> bool:
        """Whether each location of a patch model's map has a density of its own."""
        if self.location_density != "auto":
            return self.location_density == "separate"
        return self.dataset == "mvtec_ad" and self.category in MVTEC_ALIGNED

    @property
    def map_locations(self) -> str:
        """Which places of a feature map have a density in common."""
        if self.location_density != "auto":
            return self.location_density
        # What a place of a tile shows is another thing in each tile.
        return "shared" if self.tiles != (1, 1) and self.tile_density == "shared" else "nearby"

    @property
    def levels(self) -> tuple[str, ...]:
        """The blocks whose feature maps --maps=features takes, from the finest to the coarsest."""
        if self.map_levels == "auto":
            return ("conv4",) if self.backbone == "resnet18" else ("block3", "block5")
        return tuple(sorted(set(self.map_levels.split(","))))

    @property
    def main_density(self) -> str:
        """The density that the run's scores are of."""
        return self.density.split(",")[0]

    @property
    def synthetic_tests(self) -> tuple[str, ...]:
        """The kinds of synthetic anomalies to test on, in their order."""
        if self.test_anomalies == "all":
            return TEST_ANOMALIES
        return tuple(x for x in TEST_ANOMALIES if x in self.test_anomalies.split(","))

    @property
    def staged(self) -> bool:
        """Whether the training has two stages: the head alone, then all but batch normalisation."""
        return self.head_steps + self.finetune_steps > 0

    @property
    def run_dir(self) -> pathlib.Path:
        """The folder of this run: WORKDIR/CATEGORY/seed_N."""
        return pathlib.Path(self.workdir) / self.category / f"seed_{self.seed}"

    def to_json(self) -> str:
        """Returns the settings as JSON text, one field a line."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "config.json") -> "Config":
        """Reads what `to_json` wrote, with every check of a flag.

        Args:
          text: the JSON text.
          source: where the text is from; messages name it.

        Returns:
          The settings.

        Raises:
          UserError: if the text is no JSON object, is another version's, or has an unknown field or
            a bad value.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{source}: not readable as JSON ({error})") from error
        if not isinstance(values, dict):
            raise UserError(f"{source}: must hold a JSON object of settings")
        if values.pop("format", 1) != FORMAT:
            raise UserError(
                f"{source}: is of another version of cutpaste-tf, whose numbers are others; train "
                "again, in another --workdir"
            )
        values.pop("data", None)  # what the run's images were, beside the settings
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise UserError(f"{source}: unknown setting {unknown[0]!r}")
        try:
            return cls(**values)
        except (TypeError, OverflowError) as error:
            raise UserError(f"{source}: a setting has the wrong type ({error})") from error
        except UserError as error:
            raise UserError(f"{source}: {error}") from error

    @classmethod
    def load(cls, run_dir: str | os.PathLike) -> "Config":
        """Reads the settings of a run.

        Args:
          run_dir: WORKDIR/CATEGORY/seed_N.

        Returns:
          The settings.

        Raises:
          UserError: if there are none, or none that can be read.
        """
        path = pathlib.Path(run_dir) / "config.json"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read; is {run_dir} a run's folder?") from error
        return cls.from_json(text, str(path))

    def differences(self, other: "Config") -> list[str]:
        """Returns the names of the settings that would make another result than `other`'s.

        Where the files lie and whether the images may have changed, how often the training is
        looked at, on how many devices it runs, the threshold, synthetic tests and densities after
        the first, which can be changed at any time, do not count.
        """
        return [n for n in _result_names() if self.as_compared(n) != other.as_compared(n)]

    def as_compared(self, name: str) -> Any:
        """Returns a setting as far as it makes the run's result what it is."""
        return self.main_density if name == "density" else getattr(self, name)

    def fingerprint(self) -> str:
        """Returns the SHA-256, in hexadecimal, of the settings that make a result what it is.

        Those at their defaults do not count, so that it stays when a version adds settings.
        """
        values = {
            n: self.as_compared(n) for n in _result_names() if self.as_compared(n) != _default(n)
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _result_names() -> list[str]:
    """The settings that make a result what it is."""
    ignored = {
        "workdir",
        "data_dir",
        "allow_changed_data",
        "eval_every",
        "evaluate_untrained",
        "augment",
        "distribution",
        "false_positive_rate",
        "test_anomalies",
    }
    return [field.name for field in dataclasses.fields(Config) if field.name not in ignored]


def _default(name: str) -> Any:
    return next(f.default for f in dataclasses.fields(Config) if f.name == name)


def _well_typed(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return all(_well_typed(item, default[0]) for item in value)
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if isinstance(default, float):
        return isinstance(value, (int, float)) and math.isfinite(value)
    return isinstance(value, type(default))


def show(value: Any, between: str = ",") -> str:
    """Returns a value as it is written in a flag."""
    return between.join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def shown(config: Config, name: str) -> str:
    """Returns a setting as it is written in its flag."""
    return show(getattr(config, name), _between(name))


def bad_value(name: str, value: Any, rule: rules.Rule) -> UserError:
    """Returns the error of a flag's value that its rule does not allow."""
    return UserError(f"--{name}={show(value, _between(name))}: must be {rule.allowed}")


def _between(name: str) -> str:
    """What stands between the numbers of a setting that has several."""
    return next(f.metadata["between"] for f in dataclasses.fields(Config) if f.name == name)
