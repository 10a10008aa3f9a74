"""The paper's tables: the experiment of each column, and the paper's numbers.

An experiment is a flag file of `experiments/`, perhaps with further flags. All numbers are percent.
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

# The numbers of the tables, as the paper prints them.
PRINTED = json.loads((importlib.resources.files(__package__) / "paper.json").read_bytes())
OWN = "own data"
# What all flag files of the paper's experiments change: the head is an MLP, and the input is
# augmented.
FLAGFILES = {"head_dims": (512, 128), "view_jitter": (0.1,)}
# Settings of Table 3, Appendix A.4.
FINETUNED = {
    "backbone": "efficientnet_b4",
    "weights": "imagenet",
    "batch_size": 8,
    "head_steps": 10 * EPOCH_STEPS,
    "finetune_steps": 64 * EPOCH_STEPS,
    "steps": 74 * EPOCH_STEPS,
}
_3WAY = "cutpaste_3way"
# The proxy tasks by their names in the paper's tables.
_TASKS = {
    "Rotation": "rotation",
    "Cutout": "cutout",
    "Cutout (Mean)": "cutout_mean",
    "Cutout (Color)": "cutout_color",
    "Confetti": "confetti",
    "Scar": "scar",
    "CutPaste": "cutpaste",
    "CutPaste (scar)": "cutpaste_scar",
    "Binary (Union)": "cutpaste_union",
    "CutPaste (3-way)": _3WAY,
    "3-Way": _3WAY,
    "Ensemble": _3WAY,
}
Numbers = Mapping[str, Mapping[str, float]]  # by row, a "mean" and perhaps a "stderr"


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run; `scored` is whether scores.csv belongs to the density of `results`."""

    path: pathlib.Path
    config: Config
    results: Mapping[str, Any]
    scored: bool = True


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Runs of all categories and seeds, in a folder of the experiment's name.

    `flagfile` is a value of `--flagfile`, a bare name or a path; `flags` come after it.
    """

    name: str
    flagfile: str
    flags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      name: as in the paper.
      paper: the paper's numbers.
      experiment: whose runs fill the column; None for methods that this project does not have.
      required: the settings that a run needs to belong to the column.
      settings: the paper's other settings, where these differ from the defaults and `FLAGFILES`.
      measure: returns the number of a run that the column shows, as a fraction, or None.
      ensemble: whether the column shows the ensemble of all seeds, not the mean over seeds.
      untrained: whether the column shows a network before the training.
    """

    name: str
    paper: Numbers
    experiment: Experiment | None = None
    required: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    measure: Callable[[Run], float | None] = lambda run: run.results.get("image_auroc")
    ensemble: bool = False
    untrained: bool = False


def _printed(table: str, name: str) -> Numbers:
    """The paper's numbers of a column."""
    numbers = {}
    for row, values in (PRINTED[table] | PRINTED.get(f"{table}_average", {})).items():
        group = row.removeprefix("average_")
        if name in values:
            is_average = group in ("texture", "object", "all")
            numbers[f"average, {group}" if is_average else row] = values[name]
    return numbers


def _of_file(name: str, *flags: str) -> Experiment:
    return Experiment(name, name, flags)


def _resnet18(
    name: str,
    printed: Numbers,
    experiment: Experiment,
    required: Mapping[str, Any],
    result: str = "image_auroc",
    **options: Any,
) -> Column:
    """A column that shows one result of ResNet-18s trained from scratch."""
    required = {"backbone": "resnet18", "weights": "none", "task": _3WAY} | required
    if required.get("maps") != "patches":  # whole images
        required["patch_size"] = 0
    options = {"measure": lambda run: run.results.get(result)} | options
    return Column(name, printed, experiment, required, **options)


def _detection(table: str) -> list[Column]:
    """The columns of a table: other methods, and image-level models of the proxy tasks."""
    columns = []
    for name in PRINTED.get(f"{table}_average", PRINTED[table])["all"]:
        column = Column(name, _printed(table, name))
        if task := _TASKS.get(name):
            experiment = _of_file(f"resnet18_{task}")
            column = _resnet18(name, column.paper, experiment, {"task": task})
        columns.append(dataclasses.replace(column, ensemble=name == "Ensemble"))
    return columns


def _localization() -> list[Column]:
    """The columns of Table 2: a patch model and GradCAM (Section 4.2)."""
    printed = _printed("table2_pixel_auc", "CutPaste (3-way)")
    whole = _printed("table1", "CutPaste (3-way)")
    gradcam = {"average, all": {"mean": PRINTED["text"]["gradcam_pixel_auc"]}}

    def patches(name, printed, result):
        settings = {"patch_size": 64, "stem": "small"}
        experiment = _of_file("resnet18_patch_3way")
        return _resnet18(name, printed, experiment, {"maps": "patches"}, result, settings=settings)

    by_gradcam = _of_file("resnet18_gradcam")
    return [
        *(Column(name, _printed("table2_pixel_auc", name)) for name in ("FCDD", "P-SVDD")),
        patches("CutPaste (3-way)", printed, "pixel_auroc"),
        patches("AUPRO", {}, "pixel_aupro"),
        _resnet18("GradCAM", gradcam, by_gradcam, {"maps": "gradcam"}, "pixel_auroc"),
        patches("image AUROC, patches", {}, "image_auroc"),
        _resnet18("image AUROC, image-level", whole, by_gradcam, {}),
    ]


def _efficientnet(feature: str, stage: str) -> Column:
    """A column of Table 3: image AUROC by a feature, before or after fine-tuning."""
    untrained = stage == "Pretrain"

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


def _synthetic(group: str) -> list[Column]:
    """Columns of Table 6: models of Table 1, tested on synthetic anomalies (Section 5.3)."""
    task = _TASKS[group]
    experiment = _of_file(f"resnet18_{task}", "--test_anomalies=all")
    printed = PRINTED["table6_synthetic"][group.removesuffix(" (3-way)")]
    every_kind = [name for name in printed if name != "Avg"]

    def column(name):
        names = every_kind if name == "Avg" else [name]
        kinds = [kind.lower().replace(" (natural)", "_natural") for kind in names]

        def measure(run):
            by_kind = run.results.get("image_auroc_by_test_anomalies") or {}
            values = [by_kind.get(kind) for kind in kinds]
            return None if None in values else sum(values) / len(values)

        numbers = {"average, all": printed[name]}
        return _resnet18(f"{group}: {name}", numbers, experiment, {"task": task}, measure=measure)

    return list(map(column, printed))


# What Appendix A.3 varies, by key in the tables: heading, setting, and the value from its name.
_ABLATIONS = {
    "lr": ("Learning rate", "learning_rate", float),
    "epochs": ("Number of epochs", "steps", lambda name: int(name) * EPOCH_STEPS),
    "jitter": ("Jitter intensity", "jitter", float),
    "size": ("Size of patch", "area_ratio", lambda name: (0.02, float(name))),
}


def _ablation(table: str) -> list[Column]:
    """Columns of CutPaste (3-way), each with another value of one setting.

    The defaults are the values in bold face, which the other ablations keep.
    """
    usual = {name: FIELDS[name].default for name in ("learning_rate", "jitter", "area_ratio")}
    columns = []
    for key in PRINTED[table]["all"]:
        kind, name = key.split()
        group, setting, parse = _ABLATIONS[kind]
        experiment, required = _of_file(f"resnet18_{_3WAY}"), {setting: parse(name)}
        if required[setting] != FIELDS[setting].default:
            full_name = f"resnet18_{key.replace('lr', 'learning_rate').replace(' ', '_')}"
            flag = f"--{setting}={as_flag(setting, required[setting])}"
            experiment = Experiment(full_name, experiment.flagfile, (flag,))
        printed = _printed(table, key)
        columns.append(_resnet18(f"{group}: {name}", printed, experiment, usual | required))
    return columns


def _cifar10(name: str) -> Column:
    """A column of Section 5.4, whose numbers are in the text."""
    printed = {f"average, {OWN}": {"mean": PRINTED["text"]["cifar10_semantic"][name]}}
    task, settings = _TASKS[name], {"stem": "small", "image_size": (32,)}
    required = {"dataset": "cifar10", "task": task}
    return _resnet18(name, printed, _of_file(f"cifar10_{task}"), required, settings=settings)


# Titles and columns by the tables' numbers.
TABLES: dict[str, tuple[str, list[Column]]] = {
    "1": ("Detection: image AUROC by proxy task", _detection("table1")),
    "2": ("Localisation: pixel AUROC", _localization()),
    "3": (
        "Detection with EfficientNet-B4: image AUROC by feature",
        [
            _efficientnet(feature, stage)
            for feature in ("Pool", "Level-7")
            for stage in ("Pretrain", "Finetune")
        ],
    ),
    "4": ("Cutout's variants: image AUROC", _detection("table4_cutout_variants")),
    "5": ("Binary and 3-way classification: image AUROC", _detection("table5_binary_vs_3way")),
    "6": (
        "Synthetic anomalies: image AUROC",
        [*_synthetic("Cutout"), *_synthetic("CutPaste (3-way)")],
    ),
    "7": ("Learning rate and number of epochs: image AUROC", _ablation("table7")),
    "8": ("Jitter and size of the patch: image AUROC", _ablation("table8")),
    "cifar10": (
        "Semantic outliers, CIFAR-10 (Section 5.4): image AUROC",
        [_cifar10(name) for name in ("Rotation", "Cutout", "CutPaste")],
    ),
}
# The experiments of each table, and others: Table 3's network without fine-tuning, recipes for your
# own images, the demo, and a small network from scratch.
EXPERIMENTS: dict[str, list[Experiment]] = {
    number if number == "cifar10" else f"table{number}": list(
        dict.fromkeys(column.experiment for column in columns if column.experiment)
    )
    for number, (_, columns) in TABLES.items()
}
_OTHERS = ("effnet_b4_pretrained", "lite0", "lite0_pretrained", "demo", "resnet18_demo")
EXPERIMENTS["others"] = list(map(_of_file, _OTHERS))
# Tables 1 and 6 have experiments of the same name; here the name means Table 1's.
BY_NAME = {e.name: e for experiments in reversed(EXPERIMENTS.values()) for e in experiments}


def choose(names: Sequence[str]) -> list[Experiment]:
    """Finds experiments by name, by table or by the path of a flag file, each once.

    A UserError names an entry that is none of these.
    """
    experiments = {}
    for name in names:
        if name in EXPERIMENTS:
            matches = EXPERIMENTS[name]
        elif name in BY_NAME:
            matches = [BY_NAME[name]]
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
            if experiment.flags:  # Table 6's runs have the results of Table 1 as well.
                experiments[experiment.name] = experiment
    return list(experiments.values())
