"""Tables as text, Markdown, CSV, HTML and LaTeX."""

import csv
import html
import io
import os
import pathlib
import urllib.parse
from collections.abc import Sequence

from cutpaste_tf.report.tables import Table, Value

MISSING = "missing"
NONE = "-"


def _heads(table: Table) -> list[tuple[str, str]]:
    """Name and kind, "ours" or "paper", of each printed column."""
    heads = []
    for column in table.columns:
        name = f"{column.group}: {column.name}" if column.group else column.name
        if column.settings is not None:
            heads.append((name, "ours"))
        if column.paper:
            heads.append((name, "paper"))
    return heads


def _cells(table: Table, row) -> list[Value | str]:
    """A row's cells, for the columns of `_heads`."""
    cells = []
    for column, ours, paper in zip(table.columns, row.ours, row.paper, strict=True):
        if column.settings is not None:
            cells.append(MISSING if ours is None else ours)
        if column.paper:
            cells.append(NONE if paper is None else paper)
    return cells


def _marks(table: Table, cell: Value | str) -> list[int]:
    """The numbers of a cell's notes."""
    if isinstance(cell, str):
        return []
    return [table.notes.index(note) + 1 for note in cell.remarks]


def _plain(table: Table, cell: Value | str) -> str:
    marks = ",".join(map(str, _marks(table, cell)))
    return f"{cell} [{marks}]" if marks else str(cell)


def text(table: Table, width: int = 110) -> str:
    """Returns a table for a terminal, in as many blocks of columns as the width asks for."""
    names = [row.name for row in table.rows]
    first = max(map(len, [*names, "category"]))
    columns = [
        [name, kind, *(_plain(table, cell) for cell in cells)]
        for (name, kind), cells in zip(
            _heads(table),
            zip(*(_cells(table, row) for row in table.rows), strict=True),
            strict=True,
        )
    ]
    widths = [max(map(len, column)) for column in columns]
    # A method's own and the paper's column stay together.
    methods = []
    for number, (_, kind, *_) in enumerate(columns):
        if kind == "paper" and number > 0 and columns[number - 1][1] == "ours":
            methods[-1].append(number)
        else:
            methods.append([number])
    blocks, used = [[]], first
    for method in methods:
        size = sum(2 + widths[number] for number in method)
        if blocks[-1] and used + size > width:
            blocks.append([])
            used = first
        blocks[-1] += method
        used += size
    lines = [f"Table {table.number}. {table.title}"]
    for block in blocks:
        lines.append("")
        for line, name in enumerate(["", "category", *names]):
            cells = []
            for number in block:
                cell = columns[number][line]
                # A method's name stands once, over both of its columns.
                if line == 0 and number > 0 and number - 1 in block:
                    cell = "" if columns[number - 1][0] == cell else cell
                cells.append(cell.rjust(widths[number]) if line else cell.ljust(widths[number]))
            lines.append("  ".join([name.ljust(first), *cells]).rstrip())
    lines += ["", *_legend(table)]
    return "\n".join(lines) + "\n"


def _legend(table: Table) -> list[str]:
    lines = [
        "AUC in percent: mean ± standard error over seeds, ours beside the paper's as printed; an "
        "average's error is the mean of the categories'."
    ]
    return lines + [f"[{number}] {note}" for number, note in enumerate(table.notes, 1)]


def markdown(table: Table) -> str:
    """Returns a table in GitHub's Markdown."""
    heads = [f"{name}, {kind}" for name, kind in _heads(table)]
    lines = [
        f"**Table {table.number}. {table.title}**",
        "",
        "| category | " + " | ".join(heads) + " |",
        "| --- |" + " ---: |" * len(heads),
    ]
    for row in table.rows:
        cells = [_plain(table, cell) for cell in _cells(table, row)]
        if row.kind == "average":
            cells = [f"**{cell}**" for cell in cells]
        lines.append(f"| {_escaped(row.name)} | " + " | ".join(cells) + " |")
    lines += [""] + [f"{_escaped(line)}  " for line in _legend(table)]
    return "\n".join(lines) + "\n"


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace("|", "\\|").replace("_", "\\_")


def comma_separated(table: Table) -> str:
    """Returns a table as CSV with a line for each number, ours and the paper's."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["table", "group", "row", "column", "source", "mean", "stderr", "runs", "notes"]
    )
    for row in table.rows:
        heads = zip(_heads(table), _cells(table, row), strict=True)
        for (name, kind), cell in heads:
            start = [table.number, row.group, row.name, name, kind]
            if isinstance(cell, Value):
                stderr = "" if cell.stderr is None else repr(cell.stderr)
                runs = "" if kind == "paper" else cell.runs
                writer.writerow([*start, repr(cell.mean), stderr, runs, "; ".join(cell.remarks)])
            elif cell == MISSING:
                writer.writerow([*start, "", "", 0, MISSING])
    return buffer.getvalue()


_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def _latex(text_: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text_).replace("±", r"$\pm$")


def latex(table: Table) -> str:
    """Returns a table as a LaTeX table environment; it needs no package."""
    heads = _heads(table)
    names = " & ".join(_latex(name) for name, _ in heads)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(table.title)} (Table {table.number} of the paper).}}",
        rf"\begin{{tabular}}{{l{'r' * len(heads)}}}",
        r"\hline",
        rf" & {names} \\",
        " & ".join(["category", *(kind for _, kind in heads)]) + r" \\",
        r"\hline",
    ]
    for row in table.rows:
        cells = []
        for cell in _cells(table, row):
            marks = ",".join(map(str, _marks(table, cell)))
            cells.append(_latex(str(cell)) + (rf"\textsuperscript{{{marks}}}" if marks else ""))
        lines.append(" & ".join([_latex(row.name), *cells]) + r" \\")
        if row.kind == "average":
            lines.append(r"\hline")
    lines += [r"\end{tabular}", "", r"\raggedright\footnotesize"]
    # No line break of LaTeX's here: it would take a note's bracket for its argument.
    lines += [_latex(line) + r"\par" for line in _legend(table)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def html_table(table: Table, base: pathlib.Path | None = None) -> str:
    """Returns a table as a section of HTML; links to runs, relative to `base`, only with one."""
    heads = _heads(table)
    top, second, skip = [], [], False
    for number, (name, kind) in enumerate(heads):
        if skip:
            skip = False
        elif heads[number : number + 2] == [(name, "ours"), (name, "paper")]:
            top.append(f'<th colspan="2" scope="colgroup">{html.escape(name)}</th>')
            skip = True
        else:
            top.append(f'<th scope="col">{html.escape(name)}</th>')
        own = kind == "paper" and number > 0 and heads[number - 1] == (name, "ours")
        label = "ours" if kind == "ours" else "paper"
        second.append(f'<th scope="col" class="{"pair" if own else kind}">{label}</th>')
    rows = []
    for row in table.rows:
        cells = []
        for (_, kind), cell in zip(heads, _cells(table, row), strict=True):
            marks = ",".join(map(str, _marks(table, cell)))
            mark = f"<sup>{marks}</sup>" if marks else ""
            classes = kind + (" missing" if cell == MISSING else "")
            cells.append(f'<td class="{classes}">{html.escape(str(cell))}{mark}</td>')
        rows.append(
            f'<tr class="{row.kind}"><th scope="row">{html.escape(row.name)}</th>'
            f"{''.join(cells)}</tr>"
        )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    legend = html.escape(_legend(table)[0])
    parts = [
        f'<section id="table{table.number}">',
        f"<h2>Table {table.number}. {html.escape(table.title)}</h2>",
        '<div class="scroll"><table><thead>',
        f'<tr><th rowspan="2" scope="col">category</th>{"".join(top)}</tr>',
        f"<tr>{''.join(second)}</tr></thead><tbody>",
        *rows,
        "</tbody></table></div>",
        f"<p>{legend}</p>",
        f"<ol>{notes}</ol>" if notes else "",
        _links(table, base) if base is not None else "",
        "</section>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _links(table: Table, base: pathlib.Path) -> str:
    """A list of the table's runs, folded away, each with links to its files."""
    items = []
    for row in table.rows:
        if row.kind == "average":
            continue
        for column, value in zip(table.columns, row.ours, strict=True):
            if value is None:
                continue
            links = []
            for path in value.paths:
                address = pathlib.Path(os.path.relpath(path, base)).as_posix()
                quoted = html.escape(urllib.parse.quote(os.fsencode(address)), quote=True)
                links.append(f'<a href="./{quoted}/">{html.escape(path.name)}</a>')
            title = html.escape(f"{row.name}, {column.name}")
            items.append(f"<li>{title}: {', '.join(links)}</li>")
    if not items:
        return ""
    return f"<details><summary>Runs</summary><ul>{''.join(items)}</ul></details>"


FORMATS = {
    "text": text,
    "markdown": markdown,
    "csv": comma_separated,
    "html": html_table,
    "latex": latex,
}


def render(tables: Sequence[Table], form: str) -> str:
    """Returns several tables in one format, after each other; in CSV under one heading."""
    parts = [FORMATS[form](table) for table in tables]
    if form == "csv":
        return parts[0] + "".join(part.split("\n", 1)[1] for part in parts[1:])
    return "\n".join(parts)
