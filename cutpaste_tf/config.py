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

from cutpaste_tf import choices
from cutpaste_tf.choices import one_of, positive, real, some_of, whole
from cutpaste_tf.files import UserError, as_text, read_text

# Raised when the same settings come to mean other numbers, so that no two versions' runs are mixed.
FORMAT = 6
EPOCH_STEPS = 256  # Footnote 5: the paper calls 256 parameter updates an epoch.
# How --help groups the flags; in each group those that a beginner needs come first.
GROUPS = {
    "data": "what to train on, and where the runs go",
    "training": "how long and how fast",
    "network": "the backbone and its head",
    "views": "the proxy task and its ranges",
    "density": "how images are scored, and when one is anomalous",
    "maps": "where in an image it is anomalous",
    "machine": "what it is computed on",
}


def _field(group: str, default: Any, rule: choices.Rule, help_text: str, between: str = ",") -> Any:
    """A setting; `between` stands between the numbers of one that has several."""
    metadata = {"group": group, "rule": rule, "help": help_text, "between": between}
    return dataclasses.field(default=default, metadata=metadata)


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

    dataset: str = _data(
        "mvtec_ad",
        one_of(tuple(choices.CATEGORIES)),
        "the data set; folder: a folder of your own, in MVTec AD's layout",
    )
    data_dir: str = _data(
        "",
        choices.ANY,
        "the folder of the images; for cifar10 that of TensorFlow Datasets, which has a default",
    )
    category: str = _data("all", choices.ANY, "one or more categories, separated by commas, or all")
    image_size: tuple[int, ...] = _data(
        (256,), choices.IMAGE_SIZE, "images are resized to this height and width, in pixels", "x"
    )
    workdir: str = _data("runs", choices.NOT_EMPTY, "runs are written to WORKDIR/CATEGORY/seed_N")
    resize: str = _data(
        "squash",
        one_of(("squash", "pad")),
        "how an image of another shape gets there; squash: its shape changes; pad: it keeps its "
        "shape, and what is left over is ignored",
    )
    tiles: tuple[int, ...] = _data(
        (1, 1),
        choices.TILES,
        "cut images into ROWSxCOLUMNS tiles, each of --image_size, for small defects; an image's "
        "score is that of its most anomalous tile",
        "x",
    )
    roi: str = _data(
        "none",
        choices.NOT_EMPTY,
        "the region of interest: the file of a mask, 0 outside; auto: all but a fixed background; "
        "none: everything; what lies outside has no part in views, maps, metrics and scores",
    )

    steps: int = _training(65536, whole(0), "parameter updates; 0: evaluate the initial weights")
    batch_size: int = _training(
        32, whole(1), "normal images a step; the network sees each once per class of the task"
    )
    seed: int = _training(0, whole(0, 2**31 - 1), "one or more seeds, separated by commas")
    learning_rate: float = _training(
        0.03, positive(100.0), "initial learning rate; falls to zero as a cosine"
    )
    head_steps: int = _training(
        0, whole(0), "in place of --steps: updates of a first stage, which trains the head alone"
    )
    finetune_steps: int = _training(
        0,
        whole(0),
        "in place of --steps: updates of a last stage, which trains all but batch normalisation",
    )
    finetune_learning_rate: float = _training(
        0.0001, positive(100.0), "initial learning rate of that last stage"
    )
    keep_pretrained: bool = _training(
        False,
        choices.BOOLEAN,
        "keep the network as --weights brought it beside the trained one, and score by the "
        "features of both; scoring takes twice the time",
    )
    weight_decay: float = _training(
        0.00003, real(0.0, 1.0), "L2 coefficient, of half the square of all weights' norm"
    )
    eval_every: int = _training(
        32, whole(0), "epochs of 256 steps between AUROCs in TensorBoard; 0: never"
    )

    backbone: str = _network("resnet18", one_of(choices.BACKBONES), "the network")
    weights: str = _network(
        "none",
        choices.WEIGHTS,
        "initial weights; imagenet: for EfficientNet-B0 to B7, and for Lite0 to Lite2 from an "
        "installed package; a file: such as another run's checkpoints/backbone.weights.h5",
    )
    width: float = _network(1.0, positive(4.0), "multiplies ResNet-18's channels")
    stem: str = _network(
        "large",
        one_of(("large", "small")),
        "ResNet-18's first layer; large: 7x7, stride 2, and max-pooling; small: 3x3, stride 1, "
        "sixteen times the work",
    )
    head_dims: tuple[int, ...] = _network(
        (128,), choices.HEAD_DIMS, "units of the projection head's layers"
    )

    task: str = _views("cutpaste_3way", one_of(tuple(choices.TASKS)), "the proxy task")
    area_ratio: tuple[float, ...] = _views(
        (0.02, 0.15), choices.AREA_RATIO, "area of the CutPaste patch, as a share of the image"
    )
    jitter: float = _views(0.1, real(0.0, 0.5), "most colour jitter of a pasted patch")
    translation: float = _views(
        0.0, real(0.0, 0.5), "most random translation of the input, as a share of its side"
    )
    view_jitter: tuple[float, ...] = _views(
        (0.0,),
        choices.VIEW_JITTER,
        "most colour jitter of the input; three: of brightness, contrast and saturation",
    )
    independent_views: bool = _views(
        False, choices.BOOLEAN, "translate and jitter the input anew for each class of the task"
    )

    features: str = _density(
        "pool",
        one_of(choices.FEATURES),
        "pool: the last convolution; level7, level8: EfficientNet's block 6, block 7; each "
        "averaged over space",
    )
    density: str = _density(
        "gde",
        choices.DENSITY,
        "density of normal features; gde: Gaussian with Ledoit-Wolf shrinkage; gmm: Gaussian on "
        "features of unit length; kde: kernel density on them; gmm4: mixture of four; the first "
        "makes the run's scores, further ones are measured beside it",
    )
    false_positive_rate: float = _density(
        0.01,
        real(0.0, 0.5),
        "share of normal images above the run's threshold; 0: no threshold, and none of the "
        "cross-validation that it takes",
    )
    test_anomalies: str = _density(
        "none",
        some_of(choices.TEST_ANOMALIES, "none", "all"),
        "synthetic anomalies, made from the normal test images, to test on besides (Section 5.3)",
    )

    maps: str = _maps(
        "none",
        one_of(("none", "gradcam", "features", "patches")),
        "anomaly maps; features: densities on the network's feature maps; gradcam: what makes the "
        "image anomalous; patches: those of --patch_size",
    )
    map_levels: str = _maps(
        "auto",
        some_of(choices.MAP_LEVELS_OF_EFFICIENTNET + choices.MAP_LEVELS_OF_RESNET, "auto"),
        "--maps=features: the blocks whose maps are taken; auto: block3,block5 of EfficientNet, "
        "conv4 of ResNet-18",
    )
    image_score: str = _maps(
        "pooled",
        one_of(("pooled", "map", "both")),
        "--maps=features: pooled: by the pooled features; map: the map's largest; both: the mean "
        "of the two, standardised",
    )
    patch_size: int = _maps(
        0,
        choices.PATCH_SIZE,
        "train on random crops of this height and width (64 in the paper), and make maps by "
        "patches of half of it; 0: whole images",
    )
    dense_stride: int = _maps(
        4, whole(1, 1024), "--patch_size: distance between the patches that make the map"
    )
    location_density: str = _maps(
        "auto",
        one_of(("auto", "shared", "nearby", "separate")),
        "density of maps; shared: one for all places; separate: one for each, for aligned "
        "objects; nearby: one for each, of the places around it; auto: nearby, or "
        "shared with --tiles; with --patch_size separate for MVTec AD's aligned categories, else "
        "shared",
    )

    augment: str = _machine(
        "device",
        one_of(("device", "pipeline")),
        "where views are made; device: in the train step; pipeline: in tf.data on the host",
    )
    mixed_precision: bool = _machine(
        False, choices.BOOLEAN, "compute in float16, keep weights in float32"
    )
    jit_compile: bool = _machine(False, choices.BOOLEAN, "compile the train step with XLA")
    distribution: str = _machine(
        "none",
        one_of(("none", "mirrored")),
        "mirrored: share each batch among all GPUs of this machine",
    )

    def __post_init__(self):
        for name, field in FIELDS.items():
            value, rule = getattr(self, name), field.metadata["rule"]
            if isinstance(field.default, tuple):
                # One number may stand by itself.
                value = (value,) if isinstance(value, (int, float)) else tuple(value)
                object.__setattr__(self, name, value)
            if not _well_typed(value, field.default) or not rule.test(value):
                self._refuse(name, f"must be {rule.allowed}")
        if self.dataset in ("mvtec_ad", "folder") and not self.data_dir:
            self._refuse("data_dir", f"--dataset={self.dataset} needs the folder of the images")
        for name in ("data_dir", "workdir"):
            if as_text(getattr(self, name)) != getattr(self, name):
                self._refuse(name, "its name is not UTF-8; rename it")
        stages = self.head_steps + self.finetune_steps
        if stages and self.steps not in (stages, Config.steps):
            self._refuse("steps", f"the stages have {stages} together; leave --steps out")
        object.__setattr__(self, "steps", stages or self.steps)
        if self.patch_size and self.maps == "none":
            object.__setattr__(self, "maps", "patches")
        for names, words, uses in _ONLY_FOR:
            for name in names.split():
                if getattr(self, name) != FIELDS[name].default and not uses(self):
                    self._refuse(name, f"is only for {words}; leave it out")
        self._check_combinations()

    def _check_combinations(self):
        """Refuses values that are right by themselves and not together."""
        if self.weights == "imagenet" and self.backbone not in choices.WITH_IMAGENET_WEIGHTS:
            self._refuse("weights", f"there are none for --backbone={self.backbone}")
        if (self.maps == "patches") != bool(self.patch_size):
            self._refuse("maps", "patches are for --patch_size, which has no other maps")
        if self.maps == "gradcam" and self.main_density not in choices.GAUSSIANS:
            self._refuse("density", "GradCAM needs a Gaussian's distance; begin with gde")
        if self.tiles != (1, 1) and "," in self.density:
            self._refuse("density", "tiles have a single one")
        if self.task == "rotation" and len(set(self.input_shape)) > 1:
            self._refuse("image_size", "--task=rotation needs squares")
        resnet = self.backbone == "resnet18"
        blocks = choices.MAP_LEVELS_OF_RESNET if resnet else choices.MAP_LEVELS_OF_EFFICIENTNET
        if not set(self.levels) <= set(blocks):
            self._refuse("map_levels", f"--backbone={self.backbone} has {', '.join(blocks)}")
        if self.patch_size:
            if self.location_density == "nearby":
                self._refuse("location_density", "a patch model has shared or separate")
            size = f"--image_size={shown(self, 'image_size')}"
            if self.patch_size > min(self.size):
                self._refuse("patch_size", f"must fit into {size}")
            for length in (side - self.dense_patch for side in self.size):
                if rest := length % self.dense_stride:
                    reason = f"leaves {rest} pixels of {size} without a patch; must divide {length}"
                    self._refuse("dense_stride", reason)

    def _refuse(self, name, reason):
        raise UserError(f"--{name}={shown(self, name)}: {reason}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, in pixels, of a network's input: an image, or a tile of one."""
        return (self.image_size * 2)[:2]

    @property
    def input_shape(self) -> tuple[int, int]:
        """Height and width, in pixels, of what the network is trained on."""
        return (self.patch_size, self.patch_size) if self.patch_size else self.size

    @property
    def dense_patch(self) -> int:
        """Height and width, in pixels, of the patches that a patch model scores: half (A.5)."""
        return self.patch_size // 2

    @property
    def masked(self) -> bool:
        """Whether parts of the network's inputs may lie outside of what is looked at."""
        return self.roi != "none" or self.resize == "pad"

    @property
    def separate_locations(self) -> bool:
        """Whether each location of a patch model's map has a density of its own."""
        if self.location_density != "auto":
            return self.location_density == "separate"
        return self.dataset == "mvtec_ad" and self.category in choices.MVTEC_ALIGNED

    @property
    def map_locations(self) -> str:
        """Which places of a feature map have a density in common."""
        if self.location_density != "auto":
            return self.location_density
        # What a place of a tile shows is another thing in each tile.
        return "shared" if self.tiles != (1, 1) else "nearby"

    @property
    def levels(self) -> tuple[str, ...]:
        """The blocks whose feature maps --maps=features takes, from the finest to the coarsest."""
        if self.map_levels == "auto":
            return ("conv4",) if self.backbone == "resnet18" else ("block3", "block5")
        return tuple(sorted(set(self.map_levels.split(","))))

    @property
    def main_density(self) -> str:
        """The density that makes the run's scores."""
        return self.density.split(",")[0]

    @property
    def scores_are_distances(self) -> bool:
        """Whether images' scores are distances (Equation 2's root): a Gaussian's, or a map's."""
        pooled = self.image_score == "pooled" and self.main_density in choices.GAUSSIANS
        return pooled or self.image_score == "map"

    @property
    def synthetic_tests(self) -> tuple[str, ...]:
        """The kinds of synthetic anomalies to test on, in their order."""
        asked = self.test_anomalies.split(",")
        return tuple(x for x in choices.TEST_ANOMALIES if x in asked or asked == ["all"])

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
          UserError: if the text does not hold a run's settings, or those of another version.
        """
        try:
            values = json.loads(text)
            if values.pop("format", 1) != FORMAT:
                raise UserError(
                    "is of another version of cutpaste-tf, whose numbers are others; train again, "
                    "in another --workdir"
                )
            return cls(**values)
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise UserError(f"{source}: holds no settings of a run ({error})") from error

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
            text = read_text(path, 2**20)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read; is {run_dir} a run's folder?") from error
        return cls.from_json(text, str(path))

    def differences(self, other: "Config") -> list[str]:
        """Returns the names of the settings that would make another result than `other`'s."""
        others = other.compared()
        return [name for name, value in self.compared().items() if value != others[name]]

    def compared(self) -> dict[str, Any]:
        """Returns the settings as far as they make the run's result what it is."""
        values = {name: getattr(self, name) for name in FIELDS if name not in NOT_IN_RESULTS}
        return values | {"density": self.main_density}

    def fingerprint(self) -> str:
        """Returns the SHA-256, in hexadecimal, of the settings that make a result what it is.

        Those at their defaults do not count, so that it stays when a version adds settings.
        """
        values = {n: value for n, value in self.compared().items() if value != FIELDS[n].default}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


FIELDS = {field.name: field for field in dataclasses.fields(Config)}
# Settings that make no other result, or that can be changed at any time.
NOT_IN_RESULTS = {
    *("workdir", "data_dir", "eval_every", "augment", "distribution"),
    *("false_positive_rate", "test_anomalies"),
}


def _of_tasks(name):
    """The table's row of a setting that some of the tasks use."""
    tasks = [task for task, names in choices.TASKS.items() if name in names]
    return name, f"--task={', '.join(tasks)}", lambda config: config.task in tasks


# Settings that only some runs use: those runs in words, and the test for them.
_ONLY_FOR = (
    ("data_dir", "data sets that are no packages", lambda c: c.dataset not in choices.PACKAGED),
    ("width stem patch_size", "--backbone=resnet18", lambda c: c.backbone == "resnet18"),
    ("features", "EfficientNets", lambda c: c.backbone != "resnet18"),
    ("finetune_learning_rate", "--finetune_steps", lambda c: c.finetune_steps > 0),
    ("keep_pretrained", "--weights", lambda c: c.weights != "none"),
    ("keep_pretrained", "trainings", lambda c: c.steps > 0),
    ("keep_pretrained resize tiles roi density", "whole images", lambda c: not c.patch_size),
    ("test_anomalies", "runs without --tiles", lambda c: c.tiles == (1, 1)),
    ("test_anomalies", "runs without --roi and --resize=pad", lambda c: not c.masked),
    ("dense_stride", "--patch_size", lambda c: c.patch_size > 0),
    ("map_levels image_score", "--maps=features", lambda c: c.maps == "features"),
    ("location_density", "--maps=features, patches", lambda c: c.maps in ("features", "patches")),
    _of_tasks("area_ratio"),
    _of_tasks("jitter"),
    # Keras's loss scaling does not agree between devices, and XLA cannot compile what they send.
    ("mixed_precision jit_compile", "--distribution=none", lambda c: c.distribution == "none"),
)


def _well_typed(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return all(_well_typed(item, default[0]) for item in value)
    if isinstance(value, bool) or isinstance(default, bool):
        return type(value) is type(default)
    if isinstance(default, float):
        return isinstance(value, (int, float)) and math.isfinite(value)
    return isinstance(value, type(default))


def as_flag(name: str, value: Any) -> str:
    """Returns a setting's value as it is written in its flag."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return FIELDS[name].metadata["between"].join(map(str, value))
    return str(value)


def from_flag(name: str, text: str) -> Any:
    """Returns a setting's value from the text of its flag; a ValueError if the text has none."""
    default = FIELDS[name].default
    if isinstance(default, bool):
        return bool(("false", "true").index(text.lower()))
    if isinstance(default, tuple):
        between = FIELDS[name].metadata["between"]
        return tuple(type(default[0])(part) for part in text.split(between))
    return type(default)(text)


def shown(config: Config, name: str) -> str:
    """Returns a setting as it is written in its flag."""
    return as_flag(name, getattr(config, name))
