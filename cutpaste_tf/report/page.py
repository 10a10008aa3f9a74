"""One HTML page of a work directory: the paper's tables, and plots against the paper."""

import base64
import html
import io
import pathlib
from collections.abc import Sequence

from matplotlib.figure import Figure

from cutpaste_tf.draw import figures
from cutpaste_tf.report import formats, plots
from cutpaste_tf.report.tables import Run, Table

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


def build(
    tables: Sequence[Table], runs: Sequence[Run], problems: Sequence[str], base: pathlib.Path
) -> str:
    """Makes the page, which needs no other file; its links to runs are relative to `base`.

    `problems` are lines about folders that could not be read.
    """
    contents = " · ".join(f'<a href="#table{t.number}">Table {t.number}</a>' for t in tables)
    sections = []
    with figures.drawing():
        for table in tables:
            figure = plots.against_paper(table)
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
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
