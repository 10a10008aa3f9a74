"""The paper's tables, with the numbers of finished runs beside the paper's.

A run belongs to a column by its settings: Table 1's "Scar" takes every ResNet-18 that was trained
on whole images with `--task=scar`. A run with other settings than the paper's, such as fewer steps,
belongs to the column too, and a note at its cell lists these settings. If the runs of one category
and column differ in their settings, the table shows those nearest to the paper's.

All numbers are percent. Nothing here imports TensorFlow.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cutpaste_tf import run_folder
from cutpaste_tf.choices import CIFAR10_CLASSES, MVTEC_OBJECTS, MVTEC_TEXTURES
from cutpaste_tf.config import FIELDS, Config, as_flag
from cutpaste_tf.files import UserError
from cutpaste_tf.report.paper import FLAGFILES, OWN, TABLES, Column, Run
from cutpaste_tf.scoring import metrics

# Settings that change a number only by rounding, or decide the row that a run belongs to.
_NOT_COMPARED = {"category", "seed", "jit_compile", "map_levels", "maps", "features"}
# The only settings that matter to an untrained network.
_UNTRAINED = {"dataset", "backbone", "weights", "image_size", "density"}
# Settings that the paper does not give.
_NOT_IN_THE_PAPER = {
    *("head_dims", "location_density", "mixed_precision", "stem"),
    *("translation", "view_jitter"),
    "density",  # The paper's is a Gaussian; it does not say how the covariance is estimated.
}


@dataclasses.dataclass(frozen=True)
class Value:
    """A number of ours: a mean over runs, and its standard error if there are several seeds.

    `settings` lists the settings that differ from the paper's.
    """

    mean: float
    stderr: float | None = None
    runs: int = 1
    settings: str = ""
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the paper, with our numbers beside the paper's.

    `number` is the table's number in the paper. `cells` has a row for each number, in the order of
    printing, with the columns group ("texture", "object", "all" or "own data"), row, column, source
    ("ours" or "paper"), mean, stderr, runs and notes. A missing mean is NaN.
    """

    number: str
    title: str
    cells: pd.DataFrame

    @property
    def notes(self) -> list[str]:
        """The notes of all cells, each once; cells refer to them by number, from 1."""
        return list(dict.fromkeys(note for notes in self.cells["notes"] for note in notes))


def collect(workdir: str) -> tuple[list[Run], list[str]]:
    """Returns the finished runs in a folder and below it, ordered by path.

    Also returns a line for each folder that looks like a run but cannot be read.
    """
    root = pathlib.Path(workdir)
    if not root.is_dir():
        raise UserError(f"--workdir={workdir}: there is no such folder")
    runs, problems = [], []
    for path in sorted(root.rglob("results.json")):
        try:
            config = Config.load(path.parent)
            runs.append(Run(path.parent, config, run_folder.read_results(path.parent)))
        except UserError as error:
            problems.append(f"{path.parent}: skipped: {' '.join(str(error).split())}")
    return runs, problems


def of_density(runs: Sequence[Run], kind: str) -> list[Run]:
    """Returns the runs that were measured by a density, with the image AUROC of this density."""
    measured = []
    for run in runs:
        value = (run.results.get("image_auroc_by_density") or {}).get(kind)
        own = run.config.image_score == "pooled" or value is None
        if own and run.config.main_density == kind:
            measured.append(run)
        elif value is not None:
            config = dataclasses.replace(run.config, density=kind)
            # All other results belong to the run's own density, or to its maps.
            results = {"collapse": run.results.get("collapse"), "image_auroc": value}
            measured.append(Run(run.path, config, results, scored=False))
    if not measured:
        raise UserError(f"--density={kind}: no run was measured by this density")
    return measured


def differences(config: Config, column: Column) -> tuple[str, ...]:
    """Returns how a run's settings differ from the paper's for a column, such as "steps 800"."""
    defaults = {name: field.default for name, field in FIELDS.items()}
    expected = defaults | FLAGFILES | dict(column.required) | dict(column.settings)
    differing = []
    for name, value in config.compared().items():
        compared = name in _UNTRAINED if column.untrained else name not in _NOT_COMPARED
        if compared and value != expected[name]:
            whose = "the flag file's" if name in _NOT_IN_THE_PAPER else "the paper's"
            usual = as_flag(name, expected[name])
            differing.append(f"{name} {as_flag(name, value)} ({whose} {usual})")
    return tuple(differing)


def build(number: str, runs: Sequence[Run], problems: list[str] | None = None) -> Table:
    """Fills the table of a number in the paper from finished runs.

    MVTec AD's categories come first, with averages over textures, objects and all; then the
    categories of other data sets, with their average. Runs that belong to no column are ignored.
    Lines about files that cannot be read are added to `problems`.
    """
    title, columns = TABLES[number]
    problems = [] if problems is None else problems
    by_source = {}
    for run in runs:
        by_source.setdefault(_source(run), []).append(run)
    cells, ours = [], {}
    for group, sources in _rows(number, by_source).items():
        for row, source in sources.items():
            if group == "all":
                continue  # The groups before have the rows of its categories.
            values = [_ours(column, by_source.get(source, []), problems) for column in columns]
            if group != OWN or number == "cifar10" or any(values):
                ours[row] = values
                papers = [column.paper.get(row, {}) for column in columns]
                cells += _cells(group, row, columns, values, papers)
        shown = {row: ours[row] for row in sources if row in ours}
        if shown:
            averages = [_average(values) for values in zip(*shown.values(), strict=True)]
            papers = [_papers_average(*item, group, shown) for item in enumerate(columns)]
            cells += _cells(group, f"average, {group}", columns, averages, papers)
    frame = pd.DataFrame(cells).astype({"mean": float, "stderr": float, "runs": "Int64"})
    return Table(number, title, frame)


def _source(run: Run) -> tuple[str, str, str]:
    """Category, data set and, for folders, --data_dir: runs with the same ones share a row."""
    config = run.config
    folder = os.path.abspath(config.data_dir) if config.dataset == "folder" else ""
    return config.category, config.dataset, folder


def _rows(number: str, by_source: Mapping) -> dict[str, dict[str, tuple[str, str, str]]]:
    """The sources of a table's rows, by their groups and names."""
    if number == "cifar10":  # This table has rows for its own classes only.
        return {OWN: {name: (name, "cifar10", "") for name in CIFAR10_CLASSES}}
    texture, of_object = (
        {name: (name, "mvtec_ad", "") for name in names}
        for names in (MVTEC_TEXTURES, MVTEC_OBJECTS)
    )
    mvtec, own = texture | of_object, {}
    for source in sorted(set(by_source) - set(mvtec.values())):
        category, dataset, folder = source
        unique = [name for name, *_ in (*by_source, *mvtec.values())].count(category) == 1
        own[category if unique else f"{category} ({folder or dataset})"] = source
    return {"texture": texture, "object": of_object, "all": mvtec, OWN: own}


def _cells(
    group: str,
    row: str,
    columns: Sequence[Column],
    values: Sequence[Value | None],
    papers: Sequence[Mapping],
) -> list:
    """The cells of a row, as records; `papers` has the paper's "mean" and "stderr" by column."""
    cells = []
    for column, value, paper in zip(columns, values, papers, strict=True):
        position = {"group": group, "row": row, "column": column.name}
        if column.experiment:
            value = value or Value(math.nan, runs=0)
            notes = (value.settings, *value.notes) if value.settings else value.notes
            numbers = {"mean": value.mean, "stderr": value.stderr, "runs": value.runs}
            cells.append({**position, "source": "ours", **numbers, "notes": notes})
        if column.paper:
            numbers = {"mean": math.nan, "stderr": None, "notes": ()} | dict(paper)
            cells.append({**position, "source": "paper", **numbers, "runs": None})
    return cells


def _ours(column: Column, runs: Sequence[Run], problems: list[str]) -> Value | None:
    """The value of a category's runs in a column; None if no run belongs there."""
    groups = _by_settings(column, runs)
    if not groups:
        return None
    expected = column.settings.get("steps", column.required.get("steps", FIELDS["steps"].default))

    def distance(item):
        """Smaller for fewer settings that differ, steps nearer to the paper's, more seeds."""
        settings, by_seed = item
        steps = next(iter(by_seed.values()))[0].config.steps
        return len(settings), abs(math.log((steps + 1) / (expected + 1))), -len(by_seed)

    settings, by_seed = min(groups.items(), key=distance)
    nearest, values = zip(*by_seed.values(), strict=True)
    random = not column.untrained or nearest[0].config.weights == "none"
    notes = []
    if settings and len(groups) > 1:
        others = sum(map(len, groups.values())) - len(values)
        are = "run with other settings is" if others == 1 else "runs with other settings are"
        notes.append(f"{others} {are} not shown")
    if len(values) != 5 and random:
        notes.append(f"{len(values)} {'seed' if len(values) == 1 else 'seeds'} (the paper's 5)")
    if not column.untrained:
        notes += _collapses(nearest)
    mean, stderr = float(np.mean(values)), None
    if column.ensemble:
        mean = _ensemble(nearest, problems)
        if mean is None:
            return None
    elif len(values) > 1 and random:
        stderr = float(np.std(values, ddof=1) / math.sqrt(len(values)))
    return Value(mean, stderr, len(values), "; ".join(settings), tuple(notes))


def _by_settings(column: Column, runs: Sequence[Run]) -> dict[tuple, dict]:
    """The runs of a column with their AUC, by how their settings differ and by seed."""
    groups = {}
    for run in runs:
        belongs = column.experiment and all(
            getattr(run.config, name) == value for name, value in column.required.items()
        )
        value = column.measure(run) if belongs and (run.scored or not column.ensemble) else None
        if value is not None:
            # Of several runs with the same seed and settings, the first counts.
            by_seed = groups.setdefault(differences(run.config, column), {})
            by_seed.setdefault(run.config.seed, (run, 100.0 * value))
    fewest = 2 if column.ensemble else 1
    return {settings: by_seed for settings, by_seed in groups.items() if len(by_seed) >= fewest}


def _ensemble(runs: Sequence[Run], problems: list[str]) -> float | None:
    """The AUROC of several runs' averaged scores; None, and a problem, if scores are missing."""
    try:
        scored = run_folder.ensemble_scores([run.path for run in runs])
    except UserError as error:
        problems.append(f"no ensemble: {error}")
        return None
    if scored is None:
        problems.append(f"{runs[0].path}: no ensemble: its runs lack {run_folder.NORMAL_SCORES}")
        return None
    auroc = metrics.image_auroc(*scored)
    return None if auroc is None else 100.0 * auroc


def _collapses(runs: Sequence[Run]) -> list[str]:
    """A note about runs whose network has collapsed, if any."""
    collapsed = [run.results["collapse"] for run in runs if run.results.get("collapse")]
    if not collapsed:
        return []
    flags = dict.fromkeys(f"--{one['flag']}={one['learning_rate']:g}" for one in collapsed)
    count = f"{len(collapsed)} of {len(runs)} runs" if len(runs) > 1 else "the run"
    return [f"{count} ended with a proxy accuracy at chance: lower {' and '.join(flags)}"]


def _papers_average(
    index: int, column: Column, group: str, ours: Mapping[str, Sequence[Value | None]]
) -> Mapping:
    """The paper's average in a column, over the categories that have a value of ours.

    `ours` has the values of all columns by category. A column without an experiment takes the
    categories of all other columns.
    """
    measured = [
        name
        for name, values in ours.items()
        if (values[index] if column.experiment else any(values))
    ]
    if len(measured) in (0, len(ours)):
        return column.paper.get(f"average, {group}", {})
    numbers = [column.paper.get(name, {}) for name in measured]
    if not all(numbers):  # The paper has no numbers of single categories.
        return {}
    errors = [one.get("stderr") for one in numbers]
    return {
        "mean": float(np.mean([one["mean"] for one in numbers])),
        "stderr": None if None in errors else float(np.mean(errors)),
        "notes": (f"average of {len(measured)} of {len(ours)} categories",),
    }


def _average(values: Sequence[Value | None]) -> Value | None:
    """The mean of the categories' means, and of their standard errors as in the paper."""
    measured = [value for value in values if value is not None]
    if not measured:
        return None
    errors = [value.stderr for value in measured]
    notes = dict.fromkeys(value.settings for value in measured if value.settings)
    if len(measured) < len(values):
        notes = [f"average of {len(measured)} of {len(values)} categories", *notes]
    return Value(
        float(np.mean([value.mean for value in measured])),
        None if None in errors else float(np.mean(errors)),
        sum(value.runs for value in measured),
        notes=tuple(notes),
    )
