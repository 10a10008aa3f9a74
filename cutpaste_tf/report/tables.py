"""The paper's tables, filled from the runs in a work directory and set beside the paper's numbers.

A run belongs to a column by its settings, not by its folder's name: Table 1's "Scar" is every
ResNet-18 trained on whole images with `--task=scar`. Settings other than the paper's, such as fewer
steps, do not keep a run out; they are noted at each of its cells. Where runs of one category and
column differ in their settings, those nearest to the paper's are shown.

All numbers are percent. Nothing here imports TensorFlow.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from cutpaste_tf import run_folder
from cutpaste_tf.choices import CIFAR10_CLASSES, MVTEC_OBJECTS, MVTEC_TEXTURES
from cutpaste_tf.config import FIELDS, Config, as_flag
from cutpaste_tf.files import UserError
from cutpaste_tf.report.columns import FLAGFILES, OWN, TABLES, Column, Run, Value
from cutpaste_tf.scoring import metrics

NUMBERS = tuple(TABLES)
# What changes a number by rounding alone, or tells which of a table's rows a run belongs to.
_NOT_COMPARED = ("category", "seed", "jit_compile", "map_levels", "maps", "features")
# What the paper does not give: this project's choice.
_NOT_IN_THE_PAPER = {
    "density",  # a Gaussian: the paper's is one; how its covariance is estimated is not said
    "head_dims",
    "independent_views",
    "location_density",
    "mixed_precision",
    "stem",
    "translation",
    "view_jitter",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    `kind` is "category" or "average", `group` "texture", "object", "all" or `OWN`.
    For each column `ours` has None where runs are missing, `paper` where it prints nothing.
    """

    name: str
    kind: str
    group: str
    ours: tuple[Value | None, ...]
    paper: tuple[Value | None, ...]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the paper, by its number there, with ours beside the paper's."""

    number: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def notes(self) -> list[str]:
        """The notes of all cells, each once; a cell's marks are their places from 1."""
        cells = (value for row in self.rows for value in row.ours if value is not None)
        return list(dict.fromkeys(note for value in cells for note in value.remarks))


_PAPER_STEPS = FIELDS["steps"].default


def collect(workdir: str) -> tuple[list[Run], list[str]]:
    """Returns the finished runs in a folder and all below it, in the order of their folders' names.

    Also a line for each folder that looks like a run but cannot be read.
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
            problems.append(f"{path.parent}: left out: {' '.join(str(error).split())}")
    return runs, problems


def of_density(runs: Sequence[Run], kind: str) -> list[Run]:
    """Takes one of several densities that runs were measured by (`--density=gde,gmm`).

    Returns the runs that it was measured in, their image AUROC that of this density.
    """
    chosen = []
    for run in runs:
        value = (run.results.get("image_auroc_by_density") or {}).get(kind)
        own = run.config.image_score == "pooled" or value is None
        if own and run.config.main_density == kind:
            chosen.append(run)
        elif value is not None:
            config = dataclasses.replace(run.config, density=kind)
            # What else was measured is of the run's own density, or of its maps.
            kept = {name: run.results.get(name) for name in ("collapse",)}
            chosen.append(Run(run.path, config, {**kept, "image_auroc": value}, scored=False))
    if not chosen:
        raise UserError(f"--density={kind}: no run there was measured by it")
    return chosen


def differences(config: Config, column: Column) -> tuple[str, ...]:
    """Returns how a run's settings differ from the paper's for a column, such as "steps 800"."""
    defaults = {name: field.default for name, field in FIELDS.items()}
    expected = defaults | FLAGFILES | dict(column.settings or {})
    differing = []
    for name, value in config.compared().items():
        compared = column.compared is None or name in column.compared
        if compared and name not in _NOT_COMPARED and value != expected[name]:
            whose = "here usually" if name in _NOT_IN_THE_PAPER else "the paper's"
            usual = as_flag(name, expected[name])
            differing.append(f"{name} {as_flag(name, value)} ({whose} {usual})")
    return tuple(differing)


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
        runs_of = {
            settings: {seed: pair for seed, pair in by_seed.items() if pair[0].scored}
            for settings, by_seed in groups.items()
        }
        groups = {settings: by_seed for settings, by_seed in runs_of.items() if len(by_seed) > 1}
    if not groups:
        return None
    expected = (column.settings or {}).get("steps", _PAPER_STEPS)

    def distance(item):
        """Few settings that differ, steps near the paper's, many seeds."""
        settings, by_seed = item
        steps = next(iter(by_seed.values()))[0].config.steps
        return len(settings), abs(math.log((steps + 1) / (expected + 1))), -len(by_seed)

    settings, by_seed = min(groups.items(), key=distance)
    values = [value for _, value in by_seed.values()]
    paths = tuple(run.path for run, _ in by_seed.values())
    first = next(iter(by_seed.values()))[0]
    of_no_seed = column.untrained and first.config.weights != "none"
    notes = []
    if settings and len(groups) > 1:
        others = sum(len(group) for group in groups.values()) - len(by_seed)
        are = "run with other settings is" if others == 1 else "runs with other settings are"
        notes.append(f"{others} {are} not shown")
    if len(values) != 5 and not of_no_seed:
        notes.append(f"{len(values)} {'seed' if len(values) == 1 else 'seeds'} (the paper's 5)")
    if not column.untrained:
        notes += _collapses([run for run, _ in by_seed.values()])
    mean, stderr = float(np.mean(values)), None
    if column.of_ensemble:
        try:
            scored = run_folder.ensemble_scores(paths)
        except UserError as error:
            problems.append(f"no ensemble: {error}")
            return None
        if scored is None:
            problems.append(f"{paths[0]}: no ensemble: its runs lack {run_folder.NORMAL_SCORES}")
            return None
        area = metrics.image_auroc(*scored)
        if area is None:
            return None
        mean = 100.0 * area
    elif len(values) > 1 and not of_no_seed:
        stderr = float(np.std(values, ddof=1) / math.sqrt(len(values)))
    return Value(mean, stderr, len(values), "; ".join(settings), tuple(notes), paths)


def _collapses(runs: Sequence[Run]) -> list[str]:
    """What to say of runs whose network has collapsed."""
    collapsed = [run.results["collapse"] for run in runs if run.results.get("collapse")]
    if not collapsed:
        return []
    flags = dict.fromkeys(f"--{one['flag']}={one['learning_rate']:g}" for one in collapsed)
    of = f"{len(collapsed)} of {len(runs)} runs" if len(runs) > 1 else "the run"
    return [f"{of} ended with a proxy accuracy at chance: lower {' and '.join(flags)}"]


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
    """Fills a table by its number in the paper, from finished runs of this table and of others.

    MVTec AD's categories come first, with averages over textures, objects and all, then other data
    sets' with theirs. Lines about what cannot be read are added to `problems`.
    """
    title, make = TABLES[number]
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
            of_category = by_source.get(source, [])
            ours = [
                None if c.settings is None else _cell(c, of_category, problems) for c in columns
            ]
            if group == OWN and number != "cifar10" and not any(ours):
                continue  # It has runs, but of other tables.
            cells[name] = ours
            add(name, "category", group, ours, name if group != OWN else None)
        known = [name for name in sources if name in cells]
        if known:
            averages = [_average([cells[name][i] for name in known]) for i in range(len(columns))]
            add(f"average, {group}", "average", group, averages, f"average_{group}")
    return Table(number, title, columns, tuple(rows))
