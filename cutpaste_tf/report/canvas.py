"""matplotlib as all figures here use it: no display, text as it is, and no warnings of its own."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import IO

import matplotlib

matplotlib.use("Agg")  # Draws into files; needs no display.

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

# Categories, defects and files are called what users like: "$" and "_" are no mathematics there.
matplotlib.rcParams.update({"text.parse_math": False, "text.usetex": False})


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Tells in one line of letters that no font has, whatever figures the block draws and saves.

    What else matplotlib warns of, such as labels that leave little room, is there to be seen.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    if any("missing from font" in str(warning.message) for warning in caught):
        print(
            "warning: figures: matplotlib's font lacks some of their letters, which are drawn as "
            "boxes; name one that has them as font.family in a matplotlibrc",
            file=sys.stderr,
        )


def save(figure: Figure, file: str | os.PathLike | IO[bytes], **options) -> None:
    """Saves a figure as `Figure.savefig` does, and closes it whatever happens."""
    try:
        figure.savefig(file, **options)
    finally:
        plt.close(figure)
