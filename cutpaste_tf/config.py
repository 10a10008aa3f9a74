"""The settings of a run: one table has each one's default, help and allowed values.

The flags, the checks and the JSON form follow from it. Nothing here imports TensorFlow, so that
`--help` and a wrong flag answer at once.
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
from cutpaste_tf.choices import Rule, one_of, positive, real, some_of, whole
from cutpaste_tf.files import UserError, as_text

# Raise this when the same settings give other results or other files: runs of versions do not mix.
FORMAT = 10
EPOCH_STEPS = 256  # Footnote 5: the paper calls 256 parameter updates an epoch.
# The groups of flags in --help. In each group, the flags that a beginner needs come first.
GROUPS = {
    "data": "what to train on, and where the runs go",
    "training": "how long and how fast",
    "network": "the backbone and its head",
    "views": "the proxy task and its ranges",
    "density": "how images are scored, and when one is anomalous",
    "maps": "where in an image the anomaly is",
    "machine": "what computes, and how",
}


def _field(
    group: str, default: Any, help_text: str, rule: Rule = choices.ANY, between: str = ","
) -> Any:
    """A setting; `between` separates the numbers of a setting that has several."""
    if isinstance(default, bool):
        rule = choices.BOOLEAN
    metadata = {"group": group, "rule": rule, "help": help_text, "between": between}
    return dataclasses.field(default=default, metadata=metadata)


_data, _training, _network, _views, _density, _maps, _machine = (
    functools.partial(_field, group) for group in GROUPS
)


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of one run: one category, one seed. Raises UserError for a forbidden value.

    The defaults are the paper's values (Appendix A.1 and A.2), but for the input's augmentation and
    the head, whose defaults did best on several real data sets in minutes on a CPU. The flag files
    of the paper's experiments set these.
    """

    dataset: str = _data(
        "mvtec_ad", "the data set; folder: images of your own", one_of(*choices.CATEGORIES)
    )
    data_dir: str = _data("", "the folder of the images; cifar10 has a default")
    category: str = _data("all", "one or more categories, separated by commas, or all")
    image_size: tuple[int, ...] = _data(
        (256,), "height and width that images are resized to, in pixels", choices.IMAGE_SIZE, "x"
    )
    workdir: str = _data("runs", "runs are written to WORKDIR/CATEGORY/seed_N", choices.NOT_EMPTY)
    resize: str = _data(
        "squash",
        "how images get this size; squash: by stretching; pad: with a border, which is ignored",
        one_of("squash", "pad"),
    )
    tiles: tuple[int, ...] = _data(
        (1, 1),
        "cut images into tiles, each of --image_size, for small defects; the most anomalous tile "
        "gives the image's score",
        choices.TILES,
        "x",
    )
    roi: str = _data(
        "none",
        "the region of interest; a file: a mask, black where nothing matters; auto: all but a "
        "fixed background; none: the whole image; the rest is ignored everywhere",
        choices.NOT_EMPTY,
    )

    steps: int = _training(65536, "parameter updates; 0: evaluate the initial weights", whole(0))
    batch_size: int = _training(
        32, "normal images per step; the network sees each once per class of the task", whole(1)
    )
    seed: int = _training(0, "one or more seeds, separated by commas", whole(0, 2**31 - 1))
    learning_rate: float = _training(
        0.03, "initial learning rate; a cosine schedule lowers it to zero", positive(100.0)
    )
    head_steps: int = _training(
        0, "instead of --steps: updates of a first stage, which trains only the head", whole(0)
    )
    finetune_steps: int = _training(
        0,
        "instead of --steps: updates of a last stage, which trains all but batch normalisation",
        whole(0),
    )
    finetune_learning_rate: float = _training(
        0.0001, "initial learning rate of the last stage", positive(100.0)
    )
    keep_pretrained: bool = _training(
        False,
        "score by the features of two networks: the trained one, and the one that --weights "
        "loaded; scoring takes twice as long",
    )
    weight_decay: float = _training(
        0.00003, "L2 coefficient: the factor of half the sum of squared weights", real(0.0, 1.0)
    )
    eval_every: int = _training(
        32, "epochs of 256 steps between two AUROCs in TensorBoard; 0: no AUROCs", whole(0)
    )

    backbone: str = _network("resnet18", "the network", one_of(*choices.BACKBONES))
    weights: str = _network(
        "none",
        "initial weights; imagenet: for EfficientNet-B0 to B7 and, if the extra lite is installed, "
        "Lite0 to Lite2; a file: such as another run's checkpoints/backbone.weights.h5",
        choices.WEIGHTS,
    )
    width: float = _network(1.0, "multiplies ResNet-18's channels", positive(4.0))
    stem: str = _network(
        "large",
        "ResNet-18's first layer; large: 7x7, stride 2, and max-pooling; small: 3x3, stride 1, "
        "which computes sixteen times as much",
        one_of("large", "small"),
    )
    head_dims: tuple[int, ...] = _network(
        (128,), "units of the projection head's layers", choices.HEAD_DIMS
    )

    task: str = _views("cutpaste_3way", "the proxy task", one_of(*choices.TASKS))
    area_ratio: tuple[float, ...] = _views(
        (0.02, 0.15), "area of the CutPaste patch, as a share of the image", choices.AREA_RATIO
    )
    jitter: float = _views(0.1, "largest colour jitter of a pasted patch", real(0.0, 0.5))
    translation: float = _views(
        0.0, "largest random translation of the input, as a share of its side", real(0.0, 0.5)
    )
    view_jitter: tuple[float, ...] = _views(
        (0.0,),
        "largest colour jitter of the input; three numbers: of brightness, contrast, saturation",
        choices.VIEW_JITTER,
    )

    features: str = _density(
        "pool",
        "layer that is averaged over space; pool: the last convolution; level7, level8: "
        "EfficientNet's block 6, block 7",
        one_of(*choices.FEATURES),
    )
    density: str = _density(
        "gde",
        "density of normal features; gde: Gaussian with Ledoit-Wolf shrinkage; gmm: Gaussian, and "
        "kde: kernel density, on features of unit length; the first gives the run's scores, the "
        "others are only measured",
        choices.DENSITY,
    )
    false_positive_rate: float = _density(
        0.05,
        "share of normal images above the threshold; 0: no threshold, and no cross-validation "
        "for it",
        real(0.0, 0.5),
    )
    threshold_rule: str = _density(
        "robust",
        "which normal images set the threshold; robust: all but those that stand out; conformal: "
        "all; then the rate holds wherever new images are like these",
        one_of("robust", "conformal"),
    )
    test_anomalies: str = _density(
        "none",
        "also test on synthetic anomalies, made from the normal test images (Section 5.3)",
        some_of(choices.TEST_ANOMALIES, "none", "all"),
    )

    maps: str = _maps(
        "none",
        "anomaly maps; features: by densities of feature maps; gradcam: by the gradient of the "
        "score; patches: by patches of --patch_size",
        one_of("none", "gradcam", "features", "patches"),
    )
    map_levels: str = _maps(
        "auto",
        "for --maps=features: the blocks whose feature maps are used; auto: block3,block5 of "
        "EfficientNet, conv4 of ResNet-18",
        some_of(sorted(set().union(*choices.MAP_LEVELS.values())), "auto"),
    )
    image_score: str = _maps(
        "pooled",
        "for --maps=features: what gives an image's score; pooled: the density of pooled "
        "features; map: the mean of the map's largest places",
        one_of("pooled", "map"),
    )
    patch_size: int = _maps(
        0,
        "train on random crops of this height and width (64 in the paper), and make maps by "
        "patches of half this size; 0: whole images",
        choices.PATCH_SIZE,
    )
    dense_stride: int = _maps(
        4, "for --patch_size: pixels from one patch of a map to the next", whole(1, 1024)
    )
    location_density: str = _maps(
        "auto",
        "density of maps; shared: one for all places; separate: one for each place, for aligned "
        "objects; nearby: one for each place and those around it; nearest: distance to the "
        "nearest normal vectors; auto: nearest for textures, else nearby; auto with --patch_size: "
        "separate for MVTec AD's aligned categories, else shared",
        one_of("auto", "shared", "nearby", "nearest", "separate"),
    )

    augment: str = _machine(
        "device",
        "what makes the views; device: the train step; pipeline: tf.data",
        one_of("device", "pipeline"),
    )
    mixed_precision: bool = _machine(False, "compute in float16, keep weights in float32")
    jit_compile: bool = _machine(False, "compile the train step with XLA")
    distribution: str = _machine(
        "none", "mirrored: share each batch among all GPUs", one_of("none", "mirrored")
    )

    def __post_init__(self):
        for name, field in FIELDS.items():
            value, rule = getattr(self, name), field.metadata["rule"]
            if isinstance(field.default, tuple):
                # One number may stand by itself.
                value = (value,) if isinstance(value, (int, float)) else tuple(value)
                object.__setattr__(self, name, value)
            if not _well_typed(value, field.default) or not rule.test(value):
                self.refuse(name, f"must be {rule.allowed}")
        if self.dataset in ("mvtec_ad", "folder") and not self.data_dir:
            self.refuse("data_dir", f"--dataset={self.dataset} needs the folder of the images")
        for name in ("data_dir", "workdir"):
            if as_text(getattr(self, name)) != getattr(self, name):
                self.refuse(name, "the folder's name is not UTF-8; rename the folder")
        stages = self.head_steps + self.finetune_steps
        if stages and self.steps not in (stages, Config.steps):
            self.refuse("steps", f"the stages have {stages} steps together; leave --steps out")
        object.__setattr__(self, "steps", stages or self.steps)
        if self.patch_size and self.maps == "none":
            object.__setattr__(self, "maps", "patches")
        if len(set(self.image_size)) == 1:  # 256x256 is the same as 256.
            object.__setattr__(self, "image_size", self.image_size[:1])
        choices.check_together(self)

    def refuse(self, name: str, reason: str) -> None:
        """Raises a UserError about a setting."""
        raise UserError(f"{self.flag(name)}: {reason}")

    def flag(self, name: str) -> str:
        """Returns a setting as written on the command line."""
        return f"--{name}={as_flag(name, getattr(self, name))}"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, in pixels, of what the network scores: an image or a tile."""
        return (self.image_size * 2)[:2]

    @property
    def input_shape(self) -> tuple[int, int]:
        """Height and width, in pixels, of what the network is trained on."""
        return (self.patch_size, self.patch_size) if self.patch_size else self.size

    @property
    def dense_patch(self) -> int:
        """Height and width, in pixels, of the patches of a map: half of --patch_size (A.5)."""
        return self.patch_size // 2

    @property
    def masked(self) -> bool:
        """Whether the network's inputs may have pixels to ignore."""
        return self.roi != "none" or self.resize == "pad"

    @property
    def separate_locations(self) -> bool:
        """Whether each place of a patch model's map has a density of its own."""
        if self.location_density != "auto":
            return self.location_density == "separate"
        return self.dataset == "mvtec_ad" and self.category in choices.MVTEC_ALIGNED

    @property
    def map_locations(self) -> str:
        """Which places of a feature map share a density."""
        return "nearby" if self.location_density == "auto" else self.location_density

    @property
    def levels(self) -> tuple[str, ...]:
        """The blocks whose feature maps --maps=features uses, from the finest to the coarsest."""
        if self.map_levels == "auto":
            return ("conv4",) if self.backbone == "resnet18" else ("block3", "block5")
        return tuple(sorted(set(self.map_levels.split(","))))

    @property
    def main_density(self) -> str:
        """The density that gives the run's scores."""
        return self.density.split(",")[0]

    @property
    def scores_are_distances(self) -> bool:
        """Whether images' scores are distances (the root of Equation 2): by a Gaussian or a map."""
        return self.image_score == "map" or self.main_density in choices.GAUSSIANS

    @property
    def synthetic_tests(self) -> tuple[str, ...]:
        """The kinds of synthetic anomalies to test on, in the order of `TEST_ANOMALIES`."""
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
        """Returns the settings as JSON text."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "config.json") -> "Config":
        """Reads what `to_json` wrote, and checks it like flags; messages name the source."""
        try:
            values = json.loads(text)
            if values.pop("format", 1) != FORMAT:
                raise UserError("another version wrote this; train again, in another --workdir")
            return cls(**values)
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise UserError(f"{source}: holds no settings of a run ({error})") from error

    @classmethod
    def load(cls, run_dir: str | os.PathLike) -> "Config":
        """Reads the settings in a run's folder; a UserError if there are none."""
        path = pathlib.Path(run_dir) / "config.json"
        try:
            text = path.read_text("utf-8-sig")
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read; is {run_dir} a run's folder?") from error
        return cls.from_json(text, str(path))

    def differences(self, other: "Config") -> list[str]:
        """Returns the names of the settings by which the results of two runs may differ."""
        others = other.compared()
        return [name for name, value in self.compared().items() if value != others[name]]

    def compared(self) -> dict[str, Any]:
        """Returns the settings that the run's results depend on."""
        values = {name: getattr(self, name) for name in FIELDS if name not in NOT_IN_RESULTS}
        return values | {"density": self.main_density}

    def fingerprint(self) -> str:
        """Returns the SHA-256, in hexadecimal, of the settings that the results depend on."""
        # Without defaults, so that a setting that is added later leaves the SHA-256 as it is.
        values = {n: value for n, value in self.compared().items() if value != FIELDS[n].default}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


FIELDS = {field.name: field for field in dataclasses.fields(Config)}
# Settings that do not change the results, or that can be changed at any time.
NOT_IN_RESULTS = {
    *("workdir", "data_dir", "eval_every", "augment", "distribution"),
    *("false_positive_rate", "threshold_rule", "test_anomalies"),
}


def _well_typed(value, default):
    """Whether a value, which may come from JSON, has the type of a setting's default."""
    if isinstance(default, tuple):
        return all(_well_typed(item, default[0]) for item in value)
    if isinstance(default, float):
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is type(default)


def as_flag(name: str, value: Any) -> str:
    """Returns a setting's value as written in its flag."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return FIELDS[name].metadata["between"].join(map(str, value))
    return str(value)


def from_flag(name: str, text: str) -> Any:
    """Returns a setting's value from the text of its flag; raises ValueError if it has none."""
    default = FIELDS[name].default
    if isinstance(default, bool):
        return bool(("false", "true").index(text.lower()))
    if isinstance(default, tuple):
        between = FIELDS[name].metadata["between"]
        return tuple(type(default[0])(part) for part in text.split(between))
    return type(default)(text)
