"""One HTML page of a folder of runs: the paper's tables, and plots beside the paper's numbers."""

import base64
import html
import io
import os
import pathlib
import urllib.parse
from collections.abc import Sequence

from matplotlib.figure import Figure

from cutpaste_tf.draw import figures
from cutpaste_tf.report import formats
from cutpaste_tf.report.paper import OWN, Run
from cutpaste_tf.report.tables import Table

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 112rem;
  padding: 0 1rem; color: #1a1a1a; }
p, ol, ul { max-width: 76rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.85rem; }
th, td { padding: 0.2rem 0.55rem; text-align: right; white-space: nowrap; }
tbody th, thead th:first-child { text-align: left; position: sticky; left: 0;
  background: #fff; }
thead th { border-bottom: 1px solid #999; vertical-align: bottom; }
thead th[colspan] { text-align: center; }
td.paper { color: #5a5a5a; }
td.ours { font-weight: 600; } td.missing { font-weight: 400; font-style: italic; color: #767676; }
tr:has(.average) { border-top: 1px solid #ccc; border-bottom: 1px solid #999; }
tr:has(.average), tr:has(.average) th { background: #f5f5f5; }
tbody th, sup { font-weight: 400; } ol, details, .scroll + p { font-size: 0.85rem; }
img { max-width: 100%; height: auto; }
"""


def build(
    tables: Sequence[Table], runs: Sequence[Run], problems: Sequence[str], base: pathlib.Path
) -> str:
    """Makes the page, which needs no other file. Links to runs are relative to `base`.

    `problems` are lines about folders that could not be read.
    """
    categories = sorted({run.config.category for run in runs})
    contents = [f'<a href="#table{t.number}">Table {t.number}</a>' for t in tables]
    with figures.drawing():
        sections = list(map(_section, tables))
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>CutPaste: the paper's tables</title><style>{_STYLE}</style></head><body>
<h1>CutPaste: the paper's tables from these runs</h1>
<p>{len(runs)} finished runs of {len(categories)} categories{": " if categories else ""}\
{html.escape(", ".join(categories))}. The paper is Li et al., CVPR 2021; its numbers are as printed.
A cell without runs says missing, and notes list the settings that differ from the paper's.</p>
<p>{" · ".join(contents)}</p>
<ul>{"".join(f"<li>{html.escape(problem)}</li>" for problem in problems)}</ul>
{"".join(sections)}
<details><summary>Runs</summary><ul>{"".join(_link(run, base) for run in runs)}</ul></details>
</body></html>
"""


def _section(table: Table) -> str:
    """A table, and a plot of its averages if there are any."""
    figure, picture = averages(table), ""
    if figure is not None:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        text = f"Table {table.number}: averages of ours and of the paper"
        picture = f'<img alt="{text}" src="data:image/png;base64,{data}">\n'
    title = f"<h2>Table {table.number}. {table.title}</h2>"
    written = formats.html_table(table)
    return f'<section id="table{table.number}">\n{title}\n{written}{picture}</section>\n'


def _link(run: Run, base: pathlib.Path) -> str:
    """A list item with a link to a run's folder."""
    address = pathlib.Path(os.path.relpath(run.path, base)).as_posix()
    quoted = urllib.parse.quote(os.fsencode(address))
    return f'<li><a href="./{quoted}/">{html.escape(address)}</a></li>'


def averages(table: Table) -> Figure | None:
    """Plots a table's averages beside the paper's; None if there are no runs."""
    cells = table.cells
    ours = cells[cells["source"] == "ours"]
    names = ours["column"].unique()

    def series(source, group):
        rows = cells[(cells["source"] == source) & (cells["row"] == f"average, {group}")]
        rows = rows.set_index("column").reindex(names)
        return rows["mean"].to_numpy(), rows["stderr"].to_numpy()

    measured = ours[ours["mean"].notna() & ~ours["row"].str.startswith("average, ")]
    if measured.empty:
        return None
    own = measured[measured["group"] == OWN]["row"].nunique()
    mvtec = measured[measured["group"] != OWN]["row"].nunique()
    # The table of CIFAR-10 has no average over MVTec AD.
    whole = "all" if "average, all" in set(cells["row"]) else OWN
    heads = [name.replace(": ", "\n").replace(", ", ",\n").replace(" (", "\n(") for name in names]
    return figures.averages(
        heads,
        {
            "the paper, all categories": series("paper", whole),
            f"ours, MVTec AD ({mvtec} of 15 categories)": series("ours", "all"),
            f"ours, own data ({own} {'category' if own == 1 else 'categories'})": series(
                "ours", OWN
            ),
        },
        f"Table {table.number}. {table.title}",
    )
