"""One HTML page of a work directory: the paper's tables, and plots against the paper."""

import base64
import html
import io
import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")  # Draws into files; needs no display.

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from cutpaste_tf.report import formats
from cutpaste_tf.report.tables import OWN, Run, Table

# Okabe and Ito's colours and a marker for each: told apart in greyscale and by colour-blind people.
_SERIES = {
    "paper": ("#7f7f7f", "s", "the paper, all 15 categories"),
    "all": ("#0072b2", "o", "ours, MVTec AD"),
    OWN: ("#d55e00", "^", "ours, own data"),
}
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 112rem;
  padding: 0 1rem; color: #1a1a1a; }
p, ol, ul { max-width: 76rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.85rem; }
th, td { padding: 0.2rem 0.55rem; text-align: right; white-space: nowrap; }
tbody th, thead tr:first-child th:first-child { text-align: left; position: sticky; left: 0;
  background: #fff; }
thead th { border-bottom: 1px solid #999; vertical-align: bottom; }
thead th[colspan] { text-align: center; }
td.paper, th.pair, th.paper { color: #5a5a5a; }
td.ours { font-weight: 600; } td.missing { font-weight: 400; font-style: italic; color: #767676; }
tr.average { border-top: 1px solid #ccc; border-bottom: 1px solid #999; background: #f5f5f5; }
tr.average th { background: #f5f5f5; }
sup { font-weight: 400; } ol, details, .scroll + p { font-size: 0.85rem; }
img { max-width: 100%; height: auto; }
"""


def against_paper(table: Table) -> Figure | None:
    """Plots a table's averages beside the paper's.

    Args:
      table: the table.

    Returns:
      The figure, a mark for each column and series; None where there are no runs.
    """
    columns = [i for i, column in enumerate(table.columns) if column.settings is not None]
    averages = {row.group: row for row in table.rows if row.kind == "average"}
    # A table of other data than MVTec AD has no average over all of that.
    series = {"paper": averages["all" if "all" in averages else OWN].paper}
    series |= {group: averages[group].ours for group in ("all", OWN) if group in averages}
    series = {
        name: [(place, values[i]) for place, i in enumerate(columns) if values[i] is not None]
        for name, values in series.items()
    }
    categories = {
        group: sum(
            any(value is not None for value in row.ours)
            for row in table.rows
            if row.kind == "category" and (row.group == OWN) == (group == OWN)
        )
        for group in ("all", OWN)
    }
    if not any(series[name] for name in series if name != "paper"):
        return None
    figure, axes = plt.subplots(figsize=(1.9 + 0.95 * len(columns), 3.8), layout="constrained")
    for shift, (name, points) in enumerate(series.items()):
        if not points:
            continue
        color, marker, label = _SERIES[name]
        if name in categories:
            total = " of 15" if name == "all" else ""
            plural = "category" if categories[name] == 1 and not total else "categories"
            label += f" ({categories[name]}{total} {plural})"
        axes.errorbar(
            [place + 0.18 * (shift - 1) for place, _ in points],
            [value.mean for _, value in points],
            [value.stderr or 0.0 for _, value in points],
            color=color,
            marker=marker,
            label=label,
            linestyle="none",
            capsize=3,
        )
    names = []
    for i in columns:
        column = table.columns[i]
        name = f"{column.group}\n{column.name}" if column.group else column.name
        names.append(name.replace(", ", ",\n").replace(" (", "\n("))
    axes.set_xticks(range(len(columns)), names, fontsize=8)
    axes.set(xlim=(-0.6, len(columns) - 0.4), ylabel="AUC [%]")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    axes.set_title(f"Table {table.number}. {table.title}", fontsize=10)
    return figure


def build(
    tables: Sequence[Table], runs: Sequence[Run], problems: Sequence[str], base: pathlib.Path
) -> str:
    """Makes the page.

    Args:
      tables: what to show.
      runs: all runs that were found.
      problems: lines about folders that could not be read.
      base: the folder that the page will lie in.

    Returns:
      The page, which needs no other file; its links to runs are relative to `base`.
    """
    contents = " · ".join(f'<a href="#table{t.number}">Table {t.number}</a>' for t in tables)
    sections = []
    for table in tables:
        figure = against_paper(table)
        picture = ""
        if figure is not None:
            alternative = f"Table {table.number}: averages of ours and of the paper"
            picture = f'<img alt="{alternative}" src="{_embedded(figure)}">\n'
        sections.append(
            formats.html_table(table, base).replace("</section>", picture + "</section>")
        )
    warnings = "".join(f"<li>{html.escape(problem)}</li>" for problem in problems)
    categories = sorted({run.config.category for run in runs})
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>CutPaste: the paper's tables</title><style>{_STYLE}</style></head><body>",
            "<h1>CutPaste: the paper's tables from these runs</h1>",
            f"<p>{len(runs)} finished runs of {len(categories)} categories"
            f"{': ' if categories else ''}{html.escape(', '.join(categories))}. "
            "The paper is Li et al., CVPR 2021; its numbers are as printed. A missing run is shown "
            "as missing, and what differs from the paper's settings is noted.</p>",
            f"<p>{contents}</p>",
            f"<ul>{warnings}</ul>" if warnings else "",
            *sections,
            "</body></html>",
        ]
    )


def _embedded(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
