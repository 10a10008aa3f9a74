"""Prints the paper's tables, filled from the runs in a work directory.

    python -m cutpaste_tf.report --workdir=DIR --table=1 [--format=markdown] [--output=FILE]
    python -m cutpaste_tf.report --workdir=DIR --table=all

`--table=all` writes one HTML page with all tables and plots, `DIR/report.html`.
"""

import pathlib
import shutil
import sys
from collections.abc import Sequence

from cutpaste_tf import cli
from cutpaste_tf.files import UserError, replacing, warn
from cutpaste_tf.report import formats, tables

PAGE = "report.html"


@cli.command()
def main(arguments: Sequence[str]) -> None:
    """Runs a command line, sys.argv by default, and returns the exit status."""
    parser = cli.Parser("report", __doc__)
    numbers = ", ".join(tables.NUMBERS)
    parser.add_argument("--workdir", required=True, help="the runs: this folder and all below it")
    parser.add_argument("--table", required=True, help=f"{numbers}, several by commas, or all")
    parser.add_argument(
        "--format",
        help=f"{', '.join(formats.FORMATS)}; text by default, and a page in HTML for all",
    )
    parser.add_argument(
        "--density",
        help="shows image AUROC by this one of several that the runs were measured by, such as gmm",
    )
    parser.add_argument(
        "--output", help=f"a file to write; standard output, or DIR/{PAGE} for a page, by default"
    )
    arguments = parser.parse_args(arguments)
    everything = arguments.table == "all"
    chosen = tables.NUMBERS if everything else arguments.table.split(",")
    for number in chosen:
        if number not in tables.NUMBERS:
            raise UserError(f"--table={number}: must be all or one of {numbers}")
    form = arguments.format or ("html" if everything else "text")
    if form not in formats.FORMATS:
        raise UserError(f"--format={form}: must be one of {', '.join(formats.FORMATS)}")
    runs, problems = tables.collect(arguments.workdir)
    if arguments.density:
        runs = tables.of_density(runs, arguments.density)
    filled = [tables.build(number, runs, problems) for number in chosen]
    problems = list(dict.fromkeys(problems))
    for problem in problems:
        warn(f"warning: {problem}")
    output = arguments.output
    if form == "html":
        from cutpaste_tf.report import page

        if output is None and everything:
            output = str(pathlib.Path(arguments.workdir) / PAGE)
        base = pathlib.Path(output).parent if output else pathlib.Path()
        content = page.build(filled, runs, problems, base)
    elif form == "text" and output is None:
        width = max(60, shutil.get_terminal_size((110, 24)).columns)
        content = "\n".join(formats.text(table, width) for table in filled)
    else:
        content = formats.render(filled, form)
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
