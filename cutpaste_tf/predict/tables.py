"""The tables of a prediction: predictions.csv, predictions.jsonl and areas.csv.

Nothing here imports TensorFlow.
"""

import contextlib
import csv
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

from cutpaste_tf.files import cell
from cutpaste_tf.predict.rows import AREA_COLUMNS, AREAS, COLUMNS, CSV, JSONL, Judged


@contextlib.contextmanager
def written(output: pathlib.Path, areas: bool) -> Iterator[Callable[[Judged], None]]:
    """Opens the tables under other names; they take theirs if all goes well or at Ctrl-C, or go.

    Yields what writes a file's rows. With `areas` there is an areas.csv.
    """
    targets = [output / JSONL, output / CSV, *([output / AREAS] if areas else [])]
    temporary = [path.with_name(path.name + ".tmp") for path in targets]

    def rename():
        for source, target in zip(temporary, targets, strict=True):
            if source.is_file():
                os.replace(source, target)

    try:
        with contextlib.ExitStack() as opened:
            lines = opened.enter_context(open(temporary[0], "w", encoding="utf-8"))
            write_row = opened.enter_context(spreadsheets(temporary[1:], "w"))

            def write(judged):
                lines.write(json.dumps(judged.row, allow_nan=False) + "\n")
                write_row(judged.row, judged.areas)

            yield write
        rename()
    except KeyboardInterrupt as error:  # What is scored is scored.
        rename()
        raise KeyboardInterrupt(f"interrupted; what was scored is in {output}") from error
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def spreadsheets(
    paths: Sequence[pathlib.Path], mode: str
) -> Iterator[Callable[[dict, Sequence[dict]], None]]:
    """Opens predictions.csv and, if there are two paths, areas.csv.

    Mode "w" begins them; "a" adds lines, each of which is in the file at once. Yields what writes a
    row and the areas that belong to it; numbers are read back to the last bit, texts are as `cell`
    has them.
    """
    with contextlib.ExitStack() as opened:
        writers = []
        for path, columns in zip(paths, (COLUMNS, AREA_COLUMNS), strict=False):
            buffering = 1 if mode == "a" else -1
            file = open(path, mode, buffering, encoding="utf-8", newline="")  # noqa: SIM115
            writers.append(csv.DictWriter(opened.enter_context(file), columns))
            if mode == "w":
                writers[-1].writeheader()

        def write(row, areas):
            writers[0].writerow({name: cell(row[name]) for name in COLUMNS})
            for writer in writers[1:]:
                writer.writerows({"path": cell(row["path"]), **area} for area in areas)

        yield write
