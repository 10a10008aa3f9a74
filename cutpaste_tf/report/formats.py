"""Tables as text, Markdown, CSV and HTML, written by pandas."""

import html
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from cutpaste_tf.report.tables import Table

FORMATS = ("text", "markdown", "csv")  # of `render`; for HTML see `page`
MISSING, NONE = "missing", "-"
LEGEND = (
    "AUC in percent: mean ± standard error over seeds, ours beside the paper's as printed; an "
    "average's error is the mean of the categories'."
)


def render(tables: Sequence[Table], form: str, width: int = 110) -> str:
    """Returns tables in one of `FORMATS`, below each other; `width` limits the lines of "text"."""
    if form == "csv":
        return comma_separated(tables)
    write = {"text": lambda table: text(table, width), "markdown": markdown}[form]
    return "\n".join(map(write, tables))


def _texts(table: Table) -> pd.DataFrame:
    """The cells as texts such as "92.0 ± 1.0 [1,2]", with the numbers of their notes.

    The columns have two levels: the name, and "ours" or "paper".
    """

    def text(cell):
        if pd.isna(cell.mean):
            return MISSING if cell.source == "ours" else NONE
        error = "" if pd.isna(cell.stderr) else f" ± {cell.stderr:.1f}"
        marks = ",".join(str(table.notes.index(note) + 1) for note in cell.notes)
        return f"{cell.mean:.1f}{error}" + (f" [{marks}]" if marks else "")

    cells = table.cells.assign(text=[text(cell) for cell in table.cells.itertuples()])
    frame = cells.pivot(index="row", columns=["column", "source"], values="text")
    heads = pd.MultiIndex.from_frame(cells[["column", "source"]].drop_duplicates())
    heads.names = ["", "category"]
    return frame.reindex(cells["row"].unique()).reindex(columns=heads).rename_axis(None)


def _notes(table: Table) -> list[str]:
    return [LEGEND, *(f"[{number}] {note}" for number, note in enumerate(table.notes, 1))]


def text(table: Table, width: int = 110) -> str:
    """Returns a table for a terminal, in several blocks of columns if it is too wide."""
    frame = _texts(table)
    names = list(dict.fromkeys(frame.columns.get_level_values(0)))
    blocks = [[]]
    for name in names:  # A block has both columns of a name: ours and the paper's.
        wider = frame[[*blocks[-1], name]].to_string()
        if blocks[-1] and len(wider.partition("\n")[0]) > width:
            blocks.append([])
        blocks[-1].append(name)
    parts = [f"Table {table.number}. {table.title}", ""]
    for block in blocks:
        parts += [*(line.rstrip() for line in frame[block].to_string().splitlines()), ""]
    return "\n".join([*parts, *_notes(table)]) + "\n"


def markdown(table: Table) -> str:
    """Returns a table in GitHub's Markdown."""
    frame = _texts(table).rename(index=_escaped)
    heads = [f"{name}, {source}" for name, source in frame.columns]
    rows = frame.set_axis(heads, axis=1).rename_axis("category")
    for row in rows.index[rows.index.str.startswith("average, ")]:
        rows.loc[row] = "**" + rows.loc[row] + "**"
    alignment = ("left", *["right"] * len(heads))
    lines = [
        f"**Table {table.number}. {table.title}**",
        "",
        rows.to_markdown(disable_numparse=True, colalign=alignment),
        "",
        *(f"{_escaped(line)}  " for line in _notes(table)),
    ]
    return "\n".join(lines) + "\n"


def _escaped(name: str) -> str:
    return re.sub(r"([\\|_])", r"\\\1", name)


def comma_separated(tables: Sequence[Table]) -> str:
    """Returns tables as one CSV, with a line for each number."""
    frames = []
    for table in tables:
        cells = table.cells[(table.cells["source"] == "ours") | table.cells["mean"].notna()]
        notes = ["; ".join(notes) for notes in cells["notes"]]
        notes = pd.Series(notes, cells.index).mask(cells["mean"].isna(), MISSING)
        frames.append(cells.assign(notes=notes, table=table.number))
    columns = ["table", "group", "row", "column", "source", "mean", "stderr", "runs", "notes"]
    return pd.concat(frames)[columns].to_csv(index=False)


def html_table(table: Table) -> str:
    """Returns a table in HTML; the classes of cells are ours, paper, missing and average."""
    frame = _texts(table)
    average = np.where(frame.index.str.startswith("average, "), " average", "")[:, None]
    sources = np.broadcast_to(frame.columns.get_level_values(1), frame.shape).astype(object)
    classes = sources + np.where(frame == MISSING, " missing", "") + average
    styled = frame.style.set_uuid(table.number).format(escape="html").format_index(escape="html")
    styled.set_td_classes(pd.DataFrame(classes, frame.index, frame.columns))
    written = styled.to_html(cell_ids=False)
    written = re.sub(r" \[([\d,]+)\]</td>", r"<sup>\1</sup></td>", written)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    return f'<div class="scroll">{written}</div>\n<p>{LEGEND}</p>\n<ol>{notes}</ol>\n'
