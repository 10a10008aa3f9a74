"""The tables of a prediction: predictions.csv, predictions.jsonl and areas.csv.

Nothing here imports TensorFlow.
"""

import contextlib
import csv
import json
import os
import pathlib
from collections.abc import Callable, Iterator

from cutpaste_tf.predict.rows import AREA_COLUMNS, AREAS, COLUMNS, CSV, JSONL, Judged


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after rows were written."""


@contextlib.contextmanager
def written(output: pathlib.Path, areas: bool) -> Iterator[Callable[[Judged], None]]:
    """Opens the tables under other names; they take theirs if all goes well, or go.

    Args:
      output: the folder to write to.
      areas: whether there is an areas.csv.

    Yields:
      What writes a file's rows.

    Raises:
      Interrupted: in place of a KeyboardInterrupt, after the tables have taken their names.
    """
    targets = [output / CSV, output / JSONL, *([output / AREAS] if areas else [])]
    temporary = [path.with_name(path.name + ".tmp") for path in targets]
    try:
        with contextlib.ExitStack() as opened:
            options = {"newline": "", "encoding": "utf-8"}
            table, lines, *rest = (
                opened.enter_context(open(path, "w", **options)) for path in temporary
            )
            writer = csv.DictWriter(table, COLUMNS)
            writer.writeheader()
            area_writer = csv.DictWriter(rest[0], AREA_COLUMNS) if rest else None
            if rest:
                area_writer.writeheader()

            def write(judged):
                lines.write(json_line(judged.row))
                writer.writerow(csv_row(judged.row))
                for area in judged.areas:
                    area_writer.writerow(area_row(area))

            yield write
        _rename(temporary, targets)
    except KeyboardInterrupt as error:  # What is scored is scored.
        _rename(temporary, targets)
        raise Interrupted(f"interrupted; what was scored is in {output}") from error
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


def csv_row(row: dict) -> dict:
    """Returns a row of predictions.csv, its numbers as they are read back to the last bit."""
    return _exact(row, ("score", "threshold"))


def area_row(row: dict) -> dict:
    """Returns a row of areas.csv, likewise."""
    return _exact(row, ("peak", "mean"))


def json_line(row: dict) -> str:
    """Returns a line of predictions.jsonl."""
    return json.dumps(row, allow_nan=False) + "\n"


def _exact(row, numbers):
    return row | {name: None if row[name] is None else repr(row[name]) for name in numbers}


def _rename(sources, targets):
    for source, target in zip(sources, targets, strict=True):
        if source.is_file():
            os.replace(source, target)
