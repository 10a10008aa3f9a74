"""One HTML page of a folder of runs: the paper's tables beside the runs' numbers."""

import html
import os
import pathlib
import urllib.parse
from collections.abc import Sequence

from cutpaste_tf.report import formats
from cutpaste_tf.report.paper import Run
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
"""


def build(
    tables: Sequence[Table], runs: Sequence[Run], problems: Sequence[str], base: pathlib.Path
) -> str:
    """Makes the page, which needs no other file. Links to runs are relative to `base`.

    `problems` are lines about folders that could not be read.
    """
    categories = sorted({run.config.category for run in runs})
    contents = [f'<a href="#table{t.number}">Table {t.number}</a>' for t in tables]
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
{"".join(map(_section, tables))}
<details><summary>Runs</summary><ul>{"".join(_link(run, base) for run in runs)}</ul></details>
</body></html>
"""


def _section(table: Table) -> str:
    title = f"<h2>Table {table.number}. {table.title}</h2>"
    written = formats.html_table(table)
    return f'<section id="table{table.number}">\n{title}\n{written}</section>\n'


def _link(run: Run, base: pathlib.Path) -> str:
    """A list item with a link to a run's folder."""
    address = pathlib.Path(os.path.relpath(run.path, base)).as_posix()
    quoted = urllib.parse.quote(os.fsencode(address))
    return f'<li><a href="./{quoted}/">{html.escape(address)}</a></li>'
