"""What all commands share: the parser, the one line of an error, the libraries' preparation.

Nothing here imports TensorFlow.
"""

import argparse
import contextlib
import errno
import io
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator

from cutpaste_tf.config import Config
from cutpaste_tf.files import UserError, escaped, warn

_DISK_FAULTS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EFBIG,
    errno.EIO,
)


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are `UserError`s, and which takes no abbreviations."""

    def __init__(self, *args, **options):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(*args, allow_abbrev=False, formatter_class=formatter, **options)

    def error(self, message: str) -> None:
        """Raises UserError instead of exiting."""
        raise UserError(message)


def add_threshold_flags(parser: Parser) -> None:
    """Adds --threshold and --false_positive_rate to a command's flags."""
    parser.add_argument(
        "--threshold", type=float, help="scores above it are anomalous; the run's by default"
    )
    parser.add_argument(
        "--false_positive_rate",
        type=float,
        help="choose the threshold that this share of normal images is above, such as 0.01, from "
        "the run's scores of normal images",
    )


class Progress:
    """How far a command is: a bar in a terminal, in a log file a line now and then.

    Args:
      total: how many units of work there are.
      unit: what they are, such as "image".
      log: takes a line.
      done: how many are done already.
      seconds: between two lines of a log file.

    Attributes:
      done: how many are done.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        log: Callable[[str], None],
        *,
        done: int = 0,
        seconds: float = 15.0,
    ):
        self._total, self._unit, self._log, self._seconds = total, unit, log, seconds
        self.done = self._first = done
        self._began = self._said = time.monotonic()
        self._bar = None
        if sys.stderr is not None and sys.stderr.isatty():
            import tqdm

            options = {"dynamic_ncols": True, "leave": False}
            self._bar = tqdm.tqdm(total=total, initial=done, unit=unit, **options)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, count: int = 1) -> None:
        """Counts units that are done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)

    def tell(self, text: str = "", *, now: bool = False) -> None:
        """Shows a text beside the bar; or in a line, if it is time for one or `now`."""
        if self._bar is not None:
            self._bar.set_postfix_str(escaped(text))
        elif now or time.monotonic() - self._said >= self._seconds:
            self.say(text)

    def say(self, text: str) -> None:
        """Shows a text in a line of its own."""
        if self._bar is not None:
            self._bar.write(escaped(text))
            return
        self._said = time.monotonic()
        left = ""
        if self.done > self._first:
            per_unit = (self._said - self._began) / (self.done - self._first)
            minutes, seconds = divmod(round(per_unit * (self._total - self.done)), 60)
            left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"
        text = ", ".join(filter(None, (text, left)))
        self._log(f"{self._unit} {self.done}/{self._total}: {text}")


def exit_status(
    command: Callable[[], int], *, interrupted: str = "interrupted", reader_left: int = 2
) -> int:
    """Runs a command and tells what stops it.

    Args:
      command: returns the exit status where nothing is wrong.
      interrupted: what to say after Ctrl-C, unless the KeyboardInterrupt says something itself.
      reader_left: the status where who reads the output has left, as `| head` does.

    Returns:
      The exit status: the command's; 2 after a mistake of the user's, told in one line on stderr;
      130 after Ctrl-C.
    """
    # A service of Windows has none of the two, and libraries write to them all the same.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    # Names of files may hold what a terminal cannot show; see `files.as_text`.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return command()
    except UserError as error:
        warn(f"error: {' '.join(str(error).split())}")
        return 2
    except KeyboardInterrupt as error:
        warn(str(error.args[0]) if error.args else interrupted)
        return 130
    except BrokenPipeError:
        return reader_left
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                # Python flushes its output once more at its end, and must not stumble again.
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def run_faults_as_user_errors(config: Config) -> Iterator[None]:
    """Makes a UserError of a disk that is full or may not be written.

    Args:
      config: the settings of the run that the block does.

    Raises:
      UserError: in place of an error that is about the disk.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = disk_fault(error)
        if reason is None:
            raise
        raise UserError(
            f"--workdir={config.workdir}: cannot be written ({reason}); make room or mend its "
            "permissions, and start again to resume"
        ) from error


@contextlib.contextmanager
def output_faults_as_user_errors(output: str | os.PathLike) -> Iterator[None]:
    """Makes a UserError of an output folder that cannot be written.

    Args:
      output: what --output names.

    Raises:
      UserError: in place of an OSError, unless it is a reader that has left.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--output={output}: cannot be written ({reason})") from error


@contextlib.contextmanager
def faults_as_warnings(what: str) -> Iterator[None]:
    """Makes a warning, one line on stderr, of what a run's decoration has wrong.

    Figures and TensorBoard's files are there to be looked at; hours of training do not end by them.

    Args:
      what: the thing and what has become of it, such as "figures/roc.png: not drawn".

    Raises:
      Exception: what the block raised, if it is about a disk that is full or may not be written:
        the run's results would not be written either.
    """
    try:
        yield
    except Exception as error:
        if disk_fault(error) is not None:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        warn(f"warning: {what} ({reason:.300})")


def disk_fault(error: Exception) -> str | None:
    """Returns what is wrong with the disk, if that is what an error is about; None otherwise."""
    reasons = [os.strerror(code) for code in _DISK_FAULTS]
    # h5py and TensorFlow give the reason in the message alone.
    return next((reason for reason in reasons if reason in str(error)), None)


def prepare_libraries() -> None:
    """Sets what libraries read when they are imported, and how much they tell.

    Raises:
      UserError: if the user has chosen another backend.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's own notes, not errors of ours
    silence_libraries()
    if os.environ.setdefault("KERAS_BACKEND", "tensorflow") != "tensorflow":
        raise UserError(
            f"KERAS_BACKEND={os.environ['KERAS_BACKEND']}: must be tensorflow, or not set"
        )


def silence_libraries() -> None:
    """Keeps from stderr what Pillow and matplotlib tell that is nothing to a user."""
    # Pillow warns of large images, of palettes, of tags; what is wrong with an image is told by us.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # That it looks for fonts, and the like.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
