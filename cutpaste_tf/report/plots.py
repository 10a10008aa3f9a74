"""The averages of the paper's tables as plots, ours beside the paper's."""

from matplotlib.figure import Figure

from cutpaste_tf.report.tables import OWN, Table

# Okabe and Ito's colours and a marker for each: told apart in greyscale and by colour-blind people.
_SERIES = {
    "paper": ("#7f7f7f", "s", "the paper, all 15 categories"),
    "all": ("#0072b2", "o", "ours, MVTec AD"),
    OWN: ("#d55e00", "^", "ours, own data"),
}


def against_paper(table: Table) -> Figure | None:
    """Plots a table's averages beside the paper's; None where there are no runs."""
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
    figure = Figure(figsize=(1.9 + 0.95 * len(columns), 3.8), layout="constrained")
    axes = figure.subplots()
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
