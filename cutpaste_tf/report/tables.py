"""The paper's tables, filled from the runs in a work directory and set beside the paper's numbers.

A run belongs to a column by its settings, not by its folder's name: Table 1's "Scar" is every
ResNet-18 trained on whole images with `--task=scar`. Settings other than the paper's, such as fewer
steps, do not keep a run out; they are noted at each of its cells. Where runs of one category and
column differ in their settings, those nearest to the paper's are shown.

All numbers are percent. Nothing here imports TensorFlow.
"""

import dataclasses
import functools
import importlib.resources
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cutpaste_tf import ensemble, metrics
from cutpaste_tf.config import (
    CIFAR10_CLASSES,
    EPOCH_STEPS,
    MVTEC_OBJECTS,
    MVTEC_TEXTURES,
    Config,
    show,
)
from cutpaste_tf.errors import UserError

NUMBERS = ("1", "2", "3", "4", "5", "6", "7", "8", "cifar10")
OWN = "own data"
# What a run's results do not depend on, or what tells which of a table's rows it belongs to.
_NOT_COMPARED = {
    "data_dir",
    "category",
    "seed",
    "workdir",
    "eval_every",
    "augment",
    "distribution",
    "jit_compile",
    "gradcam",
    "features",
    "false_positive_rate",
    "test_anomalies",
}
# All that matters to a network that has not been trained.
_UNTRAINED_COMPARED = {"dataset", "backbone", "weights", "image_size", "density"}
# What the paper does not give: a default of this project's.
_NOT_IN_THE_PAPER = {
    "head_dims",
    "location_density",
    "mixed_precision",
    "stem",
    "translation",
    "view_jitter",
}
# What a run measures, as a fraction or null.
_MEASURES = ("image_auroc", "pixel_auroc", "pixel_aupro")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      path: its folder.
      config: its settings.
      results: its results.json.
    """

    path: pathlib.Path
    config: Config
    results: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Value:
    """A number of a table, in percent.

    Attributes:
      mean: over the runs, or what the paper prints.
      stderr: standard error of the mean; None for a single run, or where the paper prints none.
      runs: how many runs it is of; 0 for the paper's.
      settings: how the runs' settings differ from the paper's; "" if they do not.
      notes: what else is to be known about it.
      paths: the runs' folders.
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
      settings: the paper's, where they are not the flags' defaults; None for other people's
        methods, of which there are no runs here.
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


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
      name: a category, or whose average it is.
      kind: "category" or "average".
      group: "texture", "object", "all" or `OWN`.
      ours: a value for each column, None where runs are missing or there can be none.
      paper: a value for each column, None where the paper prints none.
    """

    name: str
    kind: str
    group: str
    ours: tuple[Value | None, ...]
    paper: tuple[Value | None, ...]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the paper, ours beside the paper's.

    Attributes:
      number: in the paper.
      title: what it shows.
      columns: its columns.
      rows: its rows.
    """

    number: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def notes(self) -> list[str]:
        """The notes of all cells, each once; a cell's marks are their places from 1."""
        cells = (value for row in self.rows for value in row.ours if value is not None)
        return list(dict.fromkeys(note for value in cells for note in value.remarks))


# The paper's numbers.


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
    found = {}
    for row, values in rows.items():
        if name in values:
            row = f"average_{row}" if row in ("texture", "object", "all") else row
            found[row] = Value(values[name]["mean"], values[name].get("stderr"))
    return found


# The tables' columns.

_SCRATCH = {"backbone": "resnet18", "weights": "none", "patch_size": 0}
# Appendix A.3: its bold-faced values, which the other ablations keep.
_USUAL = {"learning_rate": 0.03, "jitter": 0.1, "area_ratio": (0.02, 0.15)}


def _of_task(table: str, name: str, task: str, **more: Any) -> Column:
    settings = {"task": task}
    if task == "rotation":
        settings["batch_size"] = 16  # 64 views, as of two classes with 32
    return Column(name, _paper_column(table, name), settings, _SCRATCH | {"task": task}, **more)


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
    def of(name):
        return lambda run: run.results.get(name)

    text = paper()["text"]
    settings = {"patch_size": 64, "stem": "small"}
    chosen = {"backbone": "resnet18", "task": "cutpaste_3way", "weights": "none"}
    numbers = _paper_column("table2_pixel_auc", "CutPaste (3-way)")
    patch = lambda run: run.config.patch_size > 0  # noqa: E731
    return [
        *_others("table2_pixel_auc", "FCDD", "P-SVDD"),
        Column("CutPaste (3-way)", numbers, settings, chosen, _if(patch, of("pixel_auroc"))),
        Column("AUPRO", {}, settings, chosen, _if(patch, of("pixel_aupro"))),
        Column(
            "GradCAM",
            {"average_all": Value(text["gradcam_pixel_auc"])},
            {},
            _SCRATCH | chosen | {"gradcam": True},
            of("pixel_auroc"),
        ),
        # Figure 1: a patch model detects by its map's maximum, beside the image-level model.
        Column(
            "image AUROC, patches",
            {},
            settings,
            chosen,
            _if(patch, of("image_auroc")),
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
    "head_dims": (512, 128),
    "batch_size": 8,
    "head_steps": 10 * EPOCH_STEPS,
    "finetune_steps": 64 * EPOCH_STEPS,
    "steps": 74 * EPOCH_STEPS,
}


def _table3():
    def of(feature, last):
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
                    of(feature, last),
                    None if last else frozenset(_UNTRAINED_COMPARED),
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

    def of(*kinds):
        def measure(run):
            found = run.results.get("image_auroc_by_test_anomalies") or {}
            values = [found.get(kind) for kind in kinds]
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
            columns.append(Column(name, numbers, {"task": task}, chosen, of(*kinds), group=group))
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
        settings = {"dataset": "cifar10", "task": task, "stem": "small", "image_size": 32}
        settings |= {"batch_size": 16} if task == "rotation" else {}
        numbers = {f"average_{OWN}": Value(printed[name])}
        chosen = _SCRATCH | {"dataset": "cifar10", "task": task}
        columns.append(Column(name, numbers, settings, chosen))
    return columns


_TABLES = {
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


_PAPER_STEPS = next(f.default for f in dataclasses.fields(Config) if f.name == "steps")


# Runs.


def collect(workdir: str) -> tuple[list[Run], list[str]]:
    """Finds the finished runs in a folder and all below it.

    Args:
      workdir: the folder.

    Returns:
      The runs, in the order of their folders' names; and a line for each folder that looks like a
      run but cannot be read.

    Raises:
      UserError: if there is no such folder.
    """
    root = pathlib.Path(workdir)
    if not root.is_dir():
        raise UserError(f"--workdir={workdir}: there is no such folder")
    runs, problems = [], []
    for path in sorted(root.rglob("results.json")):
        try:
            config = Config.load(path.parent)
            results = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(results, dict) or "image_auroc" not in results:
                raise ValueError("it holds no results")
            for name in _MEASURES:
                value = results.get(name)
                if value is not None and not (_is_number(value) and 0 <= value <= 1):
                    raise ValueError(f"its {name} is {value!r}, no fraction")
            runs.append(Run(path.parent, config, results))
        except (OSError, ValueError, UserError) as error:
            problems.append(f"{path.parent}: left out: {' '.join(str(error).split())}")
    return runs, problems


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def differences(config: Config, column: Column) -> tuple[str, ...]:
    """Returns how a run's settings differ from the paper's for a column, such as "steps 800"."""
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    expected = defaults | dict(column.settings or {})
    found = []
    for name, value in expected.items():
        compared = column.compared is None or name in column.compared
        actual = config.counted(name)
        if compared and name not in _NOT_COMPARED and actual != value:
            whose = "here usually" if name in _NOT_IN_THE_PAPER else "the paper's"
            found.append(f"{name} {show(actual)} ({whose} {show(value)})")
    return tuple(found)


def _cell(column: Column, runs: Sequence[Run], problems: list[str]) -> Value | None:
    """What a column shows of a category's runs; None where there are none of it."""
    groups = {}
    for run in runs:
        if all(getattr(run.config, name) == value for name, value in column.chosen.items()):
            value = column.measure(run)
            if value is not None:
                # Of one seed's runs with the same settings the first will do.
                settings = differences(run.config, column)
                groups.setdefault(settings, {}).setdefault(run.config.seed, (run, 100.0 * value))
    if column.of_ensemble:
        groups = {settings: found for settings, found in groups.items() if len(found) > 1}
    if not groups:
        return None
    expected = (column.settings or {}).get("steps", _PAPER_STEPS)

    def distance(item):
        """Few settings that differ, steps near the paper's, many seeds."""
        settings, found = item
        steps = next(iter(found.values()))[0].config.steps
        return len(settings), abs(math.log((steps + 1) / (expected + 1))), -len(found)

    settings, found = min(groups.items(), key=distance)
    values = [value for _, value in found.values()]
    paths = tuple(run.path for run, _ in found.values())
    first = next(iter(found.values()))[0]
    of_no_seed = column.untrained and first.config.weights != "none"
    notes = []
    if settings and len(groups) > 1:
        others = sum(len(group) for group in groups.values()) - len(found)
        are = "run with other settings is" if others == 1 else "runs with other settings are"
        notes.append(f"{others} {are} not shown")
    if len(values) != 5 and not of_no_seed:
        notes.append(f"{len(values)} {'seed' if len(values) == 1 else 'seeds'} (the paper's 5)")
    mean, stderr = float(np.mean(values)), None
    if column.of_ensemble:
        try:
            scored = ensemble.of_runs(paths)
        except UserError as error:
            problems.append(f"no ensemble: {error}")
            return None
        if scored is None:
            problems.append(f"{paths[0]}: no ensemble: its runs lack {ensemble.NORMAL_SCORES}")
            return None
        area = metrics.image_auroc(*scored)
        if area is None:
            return None
        mean = 100.0 * area
    elif len(values) > 1 and not of_no_seed:
        stderr = float(np.std(values, ddof=1) / math.sqrt(len(values)))
    return Value(mean, stderr, len(values), "; ".join(settings), tuple(notes), paths)


def _average(values: Sequence[Value | None]) -> Value | None:
    """The mean of the categories' means and of their standard errors, as the paper averages."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    errors = [value.stderr for value in known]
    stderr = None if None in errors else float(np.mean(errors))
    notes = [f"average of {len(known)} of {len(values)} categories"]
    settings = list(dict.fromkeys(value.settings for value in known if value.settings))
    return Value(
        float(np.mean([value.mean for value in known])),
        stderr,
        sum(value.runs for value in known),
        notes=(*(notes if len(known) < len(values) else []), *settings),
        paths=tuple(path for value in known for path in value.paths),
    )


def _source(run: Run) -> tuple[str, str, str]:
    """Category, data set and, for folders, place: what tells the rows of runs apart."""
    config = run.config
    place = os.path.abspath(config.data_dir) if config.dataset == "folder" else ""
    return config.category, config.dataset, place


def build(number: str, runs: Sequence[Run], problems: list[str] | None = None) -> Table:
    """Fills a table.

    Args:
      number: the table's in the paper, one of `NUMBERS`.
      runs: finished runs, of this table and of others.
      problems: lines about what cannot be read are added to it.

    Returns:
      The table: MVTec AD's categories with their averages over textures, objects and all, then
      categories of other data sets with theirs.
    """
    title, make = _TABLES[number]
    columns = tuple(make())
    problems = [] if problems is None else problems
    by_source = {}
    for run in runs:
        by_source.setdefault(_source(run), []).append(run)
    mvtec = {name: (name, "mvtec_ad", "") for name in MVTEC_TEXTURES + MVTEC_OBJECTS}
    own, others = {}, set(by_source) - set(mvtec.values())
    if number == "cifar10":  # a table of its own classes alone
        mvtec, others = {}, set()
        own = {name: (name, "cifar10", "") for name in CIFAR10_CLASSES}
    for source in sorted(others):
        category, dataset, place = source
        alike = [other for other in by_source if other[0] == category]
        unique = len(alike) == 1 and category not in mvtec
        own[category if unique else f"{category} ({place or dataset})"] = source

    rows, cells = [], {}

    def add(name, kind, group, ours, papers):
        printed = tuple(column.paper.get(papers) for column in columns)
        rows.append(Row(name, kind, group, tuple(ours), printed))

    for group, sources in (
        ("texture", {name: mvtec[name] for name in MVTEC_TEXTURES if name in mvtec}),
        ("object", {name: mvtec[name] for name in MVTEC_OBJECTS if name in mvtec}),
        ("all", mvtec),
        (OWN, own),
    ):
        for name, source in sources.items() if group != "all" else ():
            found = by_source.get(source, [])
            ours = [None if c.settings is None else _cell(c, found, problems) for c in columns]
            if group == OWN and number != "cifar10" and not any(ours):
                continue  # It has runs, but of other tables.
            cells[name] = ours
            add(name, "category", group, ours, name if group != OWN else None)
        known = [name for name in sources if name in cells]
        if known:
            averages = [_average([cells[name][i] for name in known]) for i in range(len(columns))]
            add(f"average, {group}", "average", group, averages, f"average_{group}")
    return Table(number, title, columns, tuple(rows))
