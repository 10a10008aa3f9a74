"""The paper's tables as plots, ours beside the paper's."""

from matplotlib.figure import Figure

from cutpaste_tf.report.canvas import plt
from cutpaste_tf.report.tables import OWN, Table

# Okabe and Ito's colours and a marker for each: told apart in greyscale and by colour-blind people.
_SERIES = {
    "paper": ("#7f7f7f", "s", "the paper, all 15 categories"),
    "all": ("#0072b2", "o", "ours, MVTec AD"),
    OWN: ("#d55e00", "^", "ours, own data"),
}
_PANELS = 8  # beside each other at most


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
    names = [_heading(table.columns[i]) for i in columns]
    axes.set_xticks(range(len(columns)), names, fontsize=8)
    axes.set(xlim=(-0.6, len(columns) - 0.4), ylabel="AUC [%]")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    axes.set_title(f"Table {table.number}. {table.title}", fontsize=10)
    return figure


def _heading(column):
    """A column's name in short lines."""
    name = f"{column.group}\n{column.name}" if column.group else column.name
    return name.replace(", ", ",\n").replace(" (", "\n(")


def by_category(table: Table) -> Figure:
    """Plots all numbers of a table, category by category, beside the paper's.

    Args:
      table: the table; its missing numbers are left out, and with them rows that have none.

    Returns:
      The figure: a panel for each column of which there can be runs.
    """
    columns = [i for i, column in enumerate(table.columns) if column.settings is not None]
    rows = [row for row in table.rows if any(row.ours[i] or row.paper[i] for i in columns)]
    lines = -(-len(columns) // _PANELS)
    across = -(-len(columns) // lines)
    height = 0.24 * len(rows)
    figure, grid = plt.subplots(
        lines,
        across,
        figsize=(1.6 + 1.55 * across, lines * (height + 0.7) + 0.9),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    handles = {}
    for axes in grid.flat[len(columns) :]:
        axes.set_axis_off()
    for axes, i in zip(grid.flat, columns, strict=False):
        axes.set_title(_heading(table.columns[i]), fontsize=9)
        for place, row in enumerate(rows):
            average = row.kind == "average"
            if average:
                axes.axhspan(place - 0.5, place + 0.5, color="0.92", zorder=0)
            own = OWN if row.group == OWN else "all"
            # The paper's mark is larger, so that it shows where ours lies on it.
            for series, value, size in (("paper", row.paper[i], 6.5), (own, row.ours[i], 5.0)):
                if value is None:
                    continue
                color, marker, _ = _SERIES[series]
                handles[series] = axes.errorbar(
                    value.mean,
                    place,
                    xerr=value.stderr or 0.0,
                    color=color,
                    marker=marker,
                    markersize=size,
                    markeredgecolor="black" if average else color,
                    linestyle="none",
                    capsize=2,
                )
        axes.grid(axis="x", alpha=0.3)
        axes.margins(x=0.08)
        axes.tick_params(labelsize=8)
    grid[0, 0].set_yticks(range(len(rows)), [row.name for row in rows])
    grid[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel("AUC [%]", fontsize=9)
    figure.suptitle(f"Table {table.number}. {table.title}", fontsize=10)
    if handles:
        labels = [_SERIES[series][2].removesuffix(", all 15 categories") for series in handles]
        figure.legend(
            list(handles.values()), labels, loc="outside lower right", ncols=3, fontsize=8
        )
    return figure
