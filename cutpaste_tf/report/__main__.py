"""Prints the paper's tables, with the numbers of finished runs beside the paper's.

    python -m cutpaste_tf.report --workdir=DIR --table=1 [--format=markdown] [--output=FILE]
    python -m cutpaste_tf.report --workdir=DIR --table=all

`--table=all` writes one HTML page with all tables, `DIR/report.html`.
"""

import pathlib
import shutil
import sys
from collections.abc import Sequence

from cutpaste_tf import choices, cli
from cutpaste_tf.files import UserError, replacing, warn
from cutpaste_tf.report import formats, paper, tables

PAGE = "report.html"


@cli.command()
def main(arguments: Sequence[str]) -> None:
    """Runs a command line, sys.argv by default, and returns the exit status."""
    parser = cli.Parser("report", __doc__)
    numbers, forms = ", ".join(paper.TABLES), choices.one_of(*formats.FORMATS, "html")
    parser.add_argument(
        "--workdir", required=True, help="read the runs in this folder and below it"
    )
    parser.add_argument("--table", required=True, help=f"{numbers}, separated by commas, or all")
    parser.add("format", forms, "default text, or html with --table=all")
    parser.add_argument("--density", help="for runs with several densities: show this one's AUROC")
    parser.add_argument(
        "--output", help=f"the file to write; default stdout, or DIR/{PAGE} for all tables in html"
    )
    arguments = parser.parse_args(arguments)
    everything = arguments.table == "all"
    selected = list(paper.TABLES) if everything else arguments.table.split(",")
    form = arguments.format or ("html" if everything else "text")
    output = arguments.output
    for number in selected:
        if number not in paper.TABLES:
            raise UserError(f"--table={number}: must be all or one of {numbers}")
    runs, problems = tables.collect(arguments.workdir)
    if arguments.density:
        runs = tables.of_density(runs, arguments.density)
    filled = [tables.build(number, runs, problems) for number in selected]
    problems = list(dict.fromkeys(problems))
    for problem in problems:
        warn(f"warning: {problem}")
    if form == "html":
        from cutpaste_tf.report import page

        if output is None and everything:
            output = str(pathlib.Path(arguments.workdir) / PAGE)
        base = pathlib.Path(output).parent if output else pathlib.Path()
        content = page.build(filled, runs, problems, base)
    else:
        width = shutil.get_terminal_size((110, 24)).columns if output is None else 110
        content = formats.render(filled, form, max(60, width))
    if output is None:
        print(content, end="")
    else:
        _write(pathlib.Path(output), content)


def _write(path: pathlib.Path, content: str) -> None:
    """Writes a file whole or not at all."""
    if not path.name or path.is_dir():
        raise UserError(f"--output={path}: must name a file")
    with cli.writing("--output", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    warn(f"written to {path}")


if __name__ == "__main__":
    sys.exit(main())
