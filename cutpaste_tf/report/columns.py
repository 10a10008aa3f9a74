"""The columns of the paper's tables: the paper's numbers, and which runs belong there.

All numbers are percent. Nothing here imports TensorFlow.
"""

import dataclasses
import functools
import importlib.resources
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from cutpaste_tf.config import EPOCH_STEPS, Config

OWN = "own data"
# What the paper's flag files have where the flags' defaults are others: an MLP as the head, and the
# companion code's augmentation of the input.
FLAGFILES = {
    "head_dims": (512, 128),
    "translation": 0.125,
    "view_jitter": (0.125, 0.4, 0.4),
    "independent_views": True,
}
# All that matters to a network that has not been trained.
_UNTRAINED = {"dataset", "backbone", "weights", "image_size", "density"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run; `scored`: its scores.csv are of the density that its results are of."""

    path: pathlib.Path
    config: Config
    results: Mapping[str, Any]
    scored: bool = True


@dataclasses.dataclass(frozen=True)
class Value:
    """A number of a table, in percent: a mean over runs, or what the paper prints (0 runs).

    `stderr` is the mean's standard error; None for one run, or where the paper prints none.
    `settings` says how the runs' settings differ from the paper's; `paths` are the runs' folders.
    """

    mean: float
    stderr: float | None = None
    runs: int = 0
    settings: str = ""
    notes: tuple[str, ...] = ()
    paths: tuple[pathlib.Path, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """Settings and notes."""
        return (self.settings, *self.notes) if self.settings else self.notes

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + ("" if self.stderr is None else f" ± {self.stderr:.1f}")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      name: as in the paper.
      paper: the paper's numbers by row; rows that it does not print are left out.
      settings: the paper's, where they are neither the flags' defaults nor `FLAGFILES`; None for
        other people's methods, of which there are no runs here.
      chosen: the settings that a run must have to belong here.
      measure: takes from a run what the column shows, as a fraction, or None.
      compared: the settings that matter; all by default.
      of_ensemble: whether the column is of all seeds' averaged scores, rather than of their mean.
      untrained: whether it is of a network before the training, the same for all seeds where its
        weights are not random.
      group: a heading over several columns.
    """

    name: str
    paper: Mapping[str, Value]
    settings: Mapping[str, Any] | None = None
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    measure: Callable[[Run], float | None] = lambda run: run.results["image_auroc"]
    compared: frozenset[str] | None = None
    of_ensemble: bool = False
    untrained: bool = False
    group: str = ""


@functools.cache
def paper() -> dict:
    """Returns the paper's tables as printed, as data: AUC in percent."""
    text = importlib.resources.files(__package__).joinpath("paper.json").read_text(encoding="utf-8")
    return json.loads(text)


def _paper_column(table: str, name: str) -> dict[str, Value]:
    numbers = paper()
    rows = dict(numbers[table])
    if f"{table}_average" in numbers:
        averages = numbers[f"{table}_average"]
        rows |= {f"average_{group}": values for group, values in averages.items()}
    column = {}
    for row, values in rows.items():
        if name in values:
            row = f"average_{row}" if row in ("texture", "object", "all") else row
            column[row] = Value(values[name]["mean"], values[name].get("stderr"))
    return column


_SCRATCH = {"backbone": "resnet18", "weights": "none", "patch_size": 0}
# Appendix A.3: its bold-faced values, which the other ablations keep.
_USUAL = {"learning_rate": 0.03, "jitter": 0.1, "area_ratio": (0.02, 0.15)}


def _of_task(table: str, name: str, task: str, **more: Any) -> Column:
    chosen = _SCRATCH | {"task": task}
    return Column(name, _paper_column(table, name), {"task": task}, chosen, **more)


def _others(table: str, *names: str) -> list[Column]:
    return [Column(name, _paper_column(table, name)) for name in names]


def _ablation(table: str, name: str, group: str, **values: Any) -> Column:
    chosen = _SCRATCH | {"task": "cutpaste_3way"} | _USUAL | values
    key = {"learning_rate": "lr", "steps": "epochs", "jitter": "jitter", "area_ratio": "size"}
    (setting,) = values
    numbers = _paper_column(table, f"{key[setting]} {name}")
    return Column(name, numbers, {"task": "cutpaste_3way"} | values, chosen, group=group)


def _table1():
    names = {
        "Rotation": "rotation",
        "Cutout": "cutout",
        "Scar": "scar",
        "CutPaste": "cutpaste",
        "CutPaste (scar)": "cutpaste_scar",
        "CutPaste (3-way)": "cutpaste_3way",
    }
    return [
        *_others("table1", "DOCC", "U-Student", "P-SVDD"),
        *(_of_task("table1", name, task) for name, task in names.items()),
        _of_task("table1", "Ensemble", "cutpaste_3way", of_ensemble=True),
    ]


def _table2():
    def result(name):
        return lambda run: run.results.get(name)

    text = paper()["text"]
    settings = {"patch_size": 64, "stem": "small"}
    chosen = {"backbone": "resnet18", "task": "cutpaste_3way", "weights": "none"}
    numbers = _paper_column("table2_pixel_auc", "CutPaste (3-way)")
    patch = lambda run: run.config.patch_size > 0  # noqa: E731
    return [
        *_others("table2_pixel_auc", "FCDD", "P-SVDD"),
        Column("CutPaste (3-way)", numbers, settings, chosen, _if(patch, result("pixel_auroc"))),
        Column("AUPRO", {}, settings, chosen, _if(patch, result("pixel_aupro"))),
        Column(
            "GradCAM",
            {"average_all": Value(text["gradcam_pixel_auc"])},
            {},
            _SCRATCH | chosen | {"maps": "gradcam"},
            result("pixel_auroc"),
        ),
        # Figure 1: a patch model detects by its map's maximum, beside the image-level model.
        Column(
            "image AUROC, patches",
            {},
            settings,
            chosen,
            _if(patch, result("image_auroc")),
        ),
        Column(
            "image AUROC, image-level",
            _paper_column("table1", "CutPaste (3-way)"),
            {},
            _SCRATCH | chosen,
        ),
    ]


def _if(condition, measure):
    return lambda run: measure(run) if condition(run) else None


# Table 3's settings, Appendix A.4.
FINETUNED = {
    "backbone": "efficientnet_b4",
    "weights": "imagenet",
    "batch_size": 8,
    "head_steps": 10 * EPOCH_STEPS,
    "finetune_steps": 64 * EPOCH_STEPS,
    "steps": 74 * EPOCH_STEPS,
}


def _table3():
    def feature_auroc(feature, last):
        def measure(run):
            stages = (run.results.get("image_auroc_by_feature") or {}).get(feature) or {}
            if not run.config.backbone.startswith("efficientnet") or len(stages) < 1 + last:
                return None
            return list(stages.values())[-1 if last else 0]

        return measure

    columns = []
    for group, feature, key in (("Pool", "pool", "pool"), ("Level-7", "level7", "level-7")):
        for name, last in (("Pretrain", False), ("Finetune", True)):
            columns.append(
                Column(
                    name,
                    _paper_column("table3_efficientnet_b4", f"{key}/{name.lower()}"),
                    FINETUNED,
                    {},
                    feature_auroc(feature, last),
                    None if last else frozenset(_UNTRAINED),
                    untrained=not last,
                    group=group,
                )
            )
    return columns


def _table4():
    table = "table4_cutout_variants"
    tasks = {
        "Cutout": "cutout",
        "Cutout (Mean)": "cutout_mean",
        "Cutout (Color)": "cutout_color",
        "Confetti": "confetti",
        "CutPaste": "cutpaste",
    }
    return [_of_task(table, name, task) for name, task in tasks.items()]


def _table5():
    table = "table5_binary_vs_3way"
    tasks = {
        "CutPaste": "cutpaste",
        "CutPaste (scar)": "cutpaste_scar",
        "Binary (Union)": "cutpaste_union",
        "3-Way": "cutpaste_3way",
    }
    return [_of_task(table, name, task) for name, task in tasks.items()]


def _table6():
    names = {
        "MNIST": "mnist",
        "Square": "square",
        "Ellipse": "ellipse",
        "Heart": "heart",
        "Square (natural)": "square_natural",
        "Ellipse (natural)": "ellipse_natural",
        "Heart (natural)": "heart_natural",
    }

    def mean_auroc(*kinds):
        def measure(run):
            by_kind = run.results.get("image_auroc_by_test_anomalies") or {}
            values = [by_kind.get(kind) for kind in kinds]
            return None if None in values else sum(values) / len(values)

        return measure

    columns = []
    for row, group, task in (
        ("Cutout", "Cutout", "cutout"),
        ("CutPaste", "CutPaste (3-way)", "cutpaste_3way"),
    ):
        printed = paper()["table6_synthetic"][row]
        chosen = _SCRATCH | {"task": task}
        for name, kinds in (*((n, (kind,)) for n, kind in names.items()), ("Avg", names.values())):
            numbers = {"average_all": Value(printed[name]["mean"])}
            columns.append(
                Column(name, numbers, {"task": task}, chosen, mean_auroc(*kinds), group=group)
            )
    return columns


def _table7():
    rates = (
        _ablation("table7", name, "Learning rate", learning_rate=float(name))
        for name in ("0.1", "0.03", "0.01", "0.003")
    )
    epochs = (
        _ablation("table7", str(count), "Number of epochs", steps=count * EPOCH_STEPS)
        for count in (128, 192, 256, 320, 384)
    )
    return [*rates, *epochs]


def _table8():
    jitters = (
        _ablation("table8", name, "Jitter intensity", jitter=float(name))
        for name in ("0.0", "0.1", "0.2", "0.3")
    )
    sizes = (
        _ablation("table8", name, "Size of patch", area_ratio=(0.02, float(name)))
        for name in ("0.1", "0.15", "0.2", "0.3")
    )
    return [*jitters, *sizes]


def _cifar10():
    printed = paper()["text"]["cifar10_semantic"]
    names = {"Rotation": "rotation", "Cutout": "cutout", "CutPaste": "cutpaste"}
    columns = []
    for name, task in names.items():
        settings = {"dataset": "cifar10", "task": task, "stem": "small", "image_size": (32,)}
        numbers = {f"average_{OWN}": Value(printed[name])}
        chosen = _SCRATCH | {"dataset": "cifar10", "task": task}
        columns.append(Column(name, numbers, settings, chosen))
    return columns


TABLES = {
    "1": ("Detection: image AUROC by proxy task", _table1),
    "2": ("Localisation: pixel AUROC", _table2),
    "3": ("Detection with EfficientNet-B4: image AUROC by feature", _table3),
    "4": ("Cutout's variants: image AUROC", _table4),
    "5": ("Binary and 3-way classification: image AUROC", _table5),
    "6": ("Synthetic anomalies: image AUROC", _table6),
    "7": ("Learning rate and number of epochs: image AUROC", _table7),
    "8": ("Jitter and size of the patch: image AUROC", _table8),
    "cifar10": ("Semantic outliers, CIFAR-10 (Section 5.4): image AUROC", _cifar10),
}
