"""The paper's tables: for each column the experiment that makes it, and the paper's numbers.

An experiment is a file of `experiments/`, or one with a flag more. All numbers are percent.
Nothing here imports TensorFlow.
"""

import dataclasses
import importlib.resources
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cutpaste_tf.config import EPOCH_STEPS, FIELDS, Config, as_flag
from cutpaste_tf.files import UserError

# The tables as printed, as data.
PRINTED = json.loads(importlib.resources.files(__package__).joinpath("paper.json").read_text())
OWN = "own data"
# Settings of the paper's flag files that differ from the flags' defaults: an MLP as the head, and
# the companion code's augmentation of the input.
FLAGFILES = {
    "head_dims": (512, 128),
    "translation": 0.125,
    "view_jitter": (0.125, 0.4, 0.4),
    "independent_views": True,
}
# Settings of Table 3, Appendix A.4.
FINETUNED = {
    "backbone": "efficientnet_b4",
    "weights": "imagenet",
    "batch_size": 8,
    "head_steps": 10 * EPOCH_STEPS,
    "finetune_steps": 64 * EPOCH_STEPS,
    "steps": 74 * EPOCH_STEPS,
}
_SCRATCH = {"backbone": "resnet18", "weights": "none", "patch_size": 0}
_3WAY = "cutpaste_3way"


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run; `scored`: its scores.csv belong to the density of its results."""

    path: pathlib.Path
    config: Config
    results: Mapping[str, Any]
    scored: bool = True


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Runs of all categories and seeds; the name is also that of their folder.

    `flagfile` is a file's name in `experiments/` or a whole path; `flags` come after it.
    """

    name: str
    flagfile: str
    flags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      name: as in the paper.
      paper: the paper's numbers by row, each a "mean" and, where one is printed, a "stderr".
      experiment: what makes it; None for other people's methods, of which there are no runs here.
      required: the settings that a run must have to belong here.
      settings: the paper's settings besides, where the flags' defaults and `FLAGFILES` differ.
      measure: takes from a run what the column shows, as a fraction, or None.
      ensemble: whether it shows all seeds' averaged scores, rather than the mean over seeds.
      untrained: whether it shows a network before the training.
    """

    name: str
    paper: Mapping[str, Mapping[str, float]]
    experiment: Experiment | None = None
    required: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    measure: Callable[[Run], float | None] = lambda run: run.results.get("image_auroc")
    ensemble: bool = False
    untrained: bool = False


def _printed(table: str, name: str) -> dict[str, dict[str, float]]:
    """The paper's numbers of a column, by row."""
    numbers = {}
    for row, values in (PRINTED[table] | PRINTED.get(f"{table}_average", {})).items():
        group = row.removeprefix("average_")
        if name in values:
            is_average = group in ("texture", "object", "all")
            numbers[f"average, {group}" if is_average else row] = values[name]
    return numbers


def _of_file(name: str) -> Experiment:
    return Experiment(name, f"{name}.flags")


def _others(table: str, *names: str) -> list[Column]:
    """Columns of other people's methods."""
    return [Column(name, _printed(table, name)) for name in names]


def _resnet18(table: str, tasks: Mapping[str, str], **options: Any) -> list[Column]:
    """Columns of ResNet-18s that proxy tasks have trained from scratch on whole images."""
    return [
        Column(
            name,
            _printed(table, name),
            _of_file(f"resnet18_{task}"),
            _SCRATCH | {"task": task},
            **options,
        )
        for name, task in tasks.items()
    ]


def _patches(name: str, printed: Mapping[str, Mapping[str, float]], result: str) -> Column:
    """A column of Table 2: one of the results of its patch model."""
    required = {"backbone": "resnet18", "weights": "none", "task": _3WAY}
    settings = {"patch_size": 64, "stem": "small"}

    def measure(run):
        return run.results.get(result) if run.config.patch_size else None

    return Column(name, printed, _of_file("resnet18_patch_3way"), required, settings, measure)


def _gradcam(name: str, printed: Mapping[str, Mapping[str, float]], result: str, **more) -> Column:
    """A column of Table 2: one of the results of the image-level model."""
    required = _SCRATCH | {"task": _3WAY} | more
    experiment = _of_file("resnet18_gradcam")
    return Column(name, printed, experiment, required, measure=lambda run: run.results.get(result))


_STAGES = ("Pretrain", "Finetune")


def _efficientnet(feature: str, stage: str) -> Column:
    """A column of Table 3: a feature's AUROC before or after fine-tuning."""
    untrained = stage == _STAGES[0]

    def measure(run):
        by_feature = run.results.get("image_auroc_by_feature") or {}
        values = list(by_feature.get(feature.lower().replace("-", ""), {}).values())
        if not run.config.backbone.startswith("efficientnet") or len(values) < 2 - untrained:
            return None
        return values[0 if untrained else -1]

    return Column(
        f"{feature}: {stage}",
        _printed("table3_efficientnet_b4", f"{feature}/{stage}".lower()),
        _of_file("effnet_b4"),
        settings=FINETUNED,
        measure=measure,
        untrained=untrained,
    )


def _synthetic(group: str, task: str) -> list[Column]:
    """Columns of Table 6: a training of Table 1, tested on synthetic anomalies (Section 5.3)."""
    experiment = Experiment(f"resnet18_{task}", f"resnet18_{task}.flags", ("--test_anomalies=all",))
    printed = PRINTED["table6_synthetic"][group.removesuffix(" (3-way)")]
    kinds = [name.lower().replace(" (natural)", "_natural") for name in printed if name != "Avg"]

    def mean_auroc(kinds):
        def measure(run):
            by_kind = run.results.get("image_auroc_by_test_anomalies") or {}
            values = [by_kind.get(kind) for kind in kinds]
            return None if None in values else sum(values) / len(values)

        return measure

    return [
        Column(
            f"{group}: {name}",
            {"average, all": printed[name]},
            experiment,
            _SCRATCH | {"task": task},
            measure=mean_auroc(measured),
        )
        for name, measured in zip(printed, [*([kind] for kind in kinds), kinds], strict=True)
    ]


def _ablation(number: str, group: str, key: str, setting: str, values: Mapping) -> list[Column]:
    """Columns of Appendix A.3: CutPaste (3-way) with each value, by name, of one setting.

    The bold-faced values, which the other ablations keep, are the flags' defaults.
    """
    usual = {name: FIELDS[name].default for name in ("learning_rate", "jitter", "area_ratio")}
    columns = []
    for name, value in values.items():
        experiment = _of_file(f"resnet18_{_3WAY}")
        if value != FIELDS[setting].default:
            of_name = f"{key.replace('lr', 'learning_rate')}_{name}"
            flag = f"--{setting}={as_flag(setting, value)}"
            experiment = Experiment(f"resnet18_{of_name}", experiment.flagfile, (flag,))
        required = _SCRATCH | {"task": _3WAY} | usual | {setting: value}
        printed = _printed(f"table{number}", f"{key} {name}")
        columns.append(Column(f"{group}: {name}", printed, experiment, required))
    return columns


def _cifar10(name: str) -> Column:
    """A column of Section 5.4, whose numbers are in the text."""
    printed = {f"average, {OWN}": {"mean": PRINTED["text"]["cifar10_semantic"][name]}}
    task, settings = name.lower(), {"stem": "small", "image_size": (32,)}
    required = _SCRATCH | {"dataset": "cifar10", "task": task}
    return Column(name, printed, _of_file(f"cifar10_{task}"), required, settings)


_DETECTION = {
    "Rotation": "rotation",
    "Cutout": "cutout",
    "Scar": "scar",
    "CutPaste": "cutpaste",
    "CutPaste (scar)": "cutpaste_scar",
    "CutPaste (3-way)": _3WAY,
}
_VARIANTS = {
    "Cutout": "cutout",
    "Cutout (Mean)": "cutout_mean",
    "Cutout (Color)": "cutout_color",
    "Confetti": "confetti",
    "CutPaste": "cutpaste",
}
_BINARY = {
    "CutPaste": "cutpaste",
    "CutPaste (scar)": "cutpaste_scar",
    "Binary (Union)": "cutpaste_union",
    "3-Way": _3WAY,
}
_PIXELS = _printed("table2_pixel_auc", "CutPaste (3-way)")
_GRADCAM = {"average, all": {"mean": PRINTED["text"]["gradcam_pixel_auc"]}}
_IMAGES = _printed("table1", "CutPaste (3-way)")
_RATES = {str(rate): rate for rate in (0.1, 0.03, 0.01, 0.003)}
_EPOCHS = {str(epochs): epochs * EPOCH_STEPS for epochs in (128, 192, 256, 320, 384)}
_JITTERS = {str(jitter): jitter for jitter in (0.0, 0.1, 0.2, 0.3)}
_SIZES = {str(size): (0.02, size) for size in (0.1, 0.15, 0.2, 0.3)}

# Titles and columns by the tables' numbers.
TABLES: dict[str, tuple[str, list[Column]]] = {
    "1": (
        "Detection: image AUROC by proxy task",
        _others("table1", "DOCC", "U-Student", "P-SVDD")
        + _resnet18("table1", _DETECTION)
        + _resnet18("table1", {"Ensemble": _3WAY}, ensemble=True),
    ),
    # Section 4.2 compares the patch model with GradCAM; Figure 1 detects by patches, too.
    "2": (
        "Localisation: pixel AUROC",
        [
            *_others("table2_pixel_auc", "FCDD", "P-SVDD"),
            _patches("CutPaste (3-way)", _PIXELS, "pixel_auroc"),
            _patches("AUPRO", {}, "pixel_aupro"),
            _gradcam("GradCAM", _GRADCAM, "pixel_auroc", maps="gradcam"),
            _patches("image AUROC, patches", {}, "image_auroc"),
            _gradcam("image AUROC, image-level", _IMAGES, "image_auroc"),
        ],
    ),
    "3": (
        "Detection with EfficientNet-B4: image AUROC by feature",
        [_efficientnet(feature, stage) for feature in ("Pool", "Level-7") for stage in _STAGES],
    ),
    "4": (
        "Cutout's variants: image AUROC",
        _resnet18("table4_cutout_variants", _VARIANTS),
    ),
    "5": (
        "Binary and 3-way classification: image AUROC",
        _resnet18("table5_binary_vs_3way", _BINARY),
    ),
    "6": (
        "Synthetic anomalies: image AUROC",
        _synthetic("Cutout", "cutout") + _synthetic("CutPaste (3-way)", _3WAY),
    ),
    "7": (
        "Learning rate and number of epochs: image AUROC",
        _ablation("7", "Learning rate", "lr", "learning_rate", _RATES)
        + _ablation("7", "Number of epochs", "epochs", "steps", _EPOCHS),
    ),
    "8": (
        "Jitter and size of the patch: image AUROC",
        _ablation("8", "Jitter intensity", "jitter", "jitter", _JITTERS)
        + _ablation("8", "Size of patch", "size", "area_ratio", _SIZES),
    ),
    "cifar10": (
        "Semantic outliers, CIFAR-10 (Section 5.4): image AUROC",
        [_cifar10(name) for name in ("Rotation", "Cutout", "CutPaste")],
    ),
}
# The experiments of each table, and those that no table needs: the pretrained columns of Table 3
# without fine-tuning, the recipes for one's own images on a CPU, the demo, and a small one from
# scratch.
EXPERIMENTS: dict[str, list[Experiment]] = {
    number if number == "cifar10" else f"table{number}": list(
        dict.fromkeys(column.experiment for column in columns if column.experiment)
    )
    for number, (_, columns) in TABLES.items()
} | {
    "others": [
        _of_file(name)
        for name in ("effnet_b4_pretrained", "lite0", "lite0_pretrained", "demo", "resnet18_demo")
    ]
}


def all_experiments() -> dict[str, Experiment]:
    """Returns all experiments by name, those of Table 6 without their further tests."""
    by_name = {}
    for experiments in EXPERIMENTS.values():
        for experiment in experiments:
            by_name.setdefault(experiment.name, experiment)
    return by_name


def choose(names: Sequence[str]) -> list[Experiment]:
    """Finds experiments.

    Args:
      names: of tables ("table1"), of experiments ("resnet18_rotation"), or paths of flag files.

    Returns:
      The experiments, each once, in their order.

    Raises:
      UserError: naming what is not known.
    """
    experiments, by_name = {}, all_experiments()
    for name in names:
        if name in EXPERIMENTS:
            matches = EXPERIMENTS[name]
        elif name in by_name:
            matches = [by_name[name]]
        elif not name.endswith(".flags"):
            raise UserError(
                f"--experiments={name}: must be a table ({', '.join(EXPERIMENTS)}), an experiment "
                "that --list lists, or a file ending in .flags"
            )
        elif pathlib.Path(name).is_file():
            path = pathlib.Path(name).absolute()
            matches = [Experiment(path.stem, str(path))]
        else:
            raise UserError(f"--experiments={name}: there is no such file")
        for experiment in matches:
            other = experiments.setdefault(experiment.name, experiment)
            if other.flagfile != experiment.flagfile:
                raise UserError(
                    f"--experiments: {other.flagfile} and {experiment.flagfile} would share the "
                    f"folder {experiment.name}; rename one"
                )
            if experiment.flags:  # The tests of Table 6 include those of Table 1.
                experiments[experiment.name] = experiment
    return list(experiments.values())


def find_flagfile(experiment: Experiment) -> str:
    """Returns the path of an experiment's flag file; a UserError without a checkout of these."""
    checkout = pathlib.Path(__file__).resolve().parents[2]
    for folder in (pathlib.Path(), checkout):
        path = folder / "experiments" / experiment.flagfile  # a whole path stays what it is
        if path.is_file():
            return str(path)
    raise UserError(
        f"experiments/{experiment.flagfile}: there is no such file; run this from a checkout of "
        "cutpaste-tf, or name a file of your own ending in .flags"
    )
