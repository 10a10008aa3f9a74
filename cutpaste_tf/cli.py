"""What all commands share: flags, error lines, full disks and Ctrl-C.

Nothing here imports TensorFlow.
"""

import argparse
import contextlib
import dataclasses
import difflib
import errno
import functools
import io
import logging
import math
import os
import pathlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cutpaste_tf import choices
from cutpaste_tf.config import FIELDS, GROUPS, Config, as_flag, from_flag
from cutpaste_tf.files import UserError, read_lines, warn

_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO)
_DISK_FAULTS = tuple(map(os.strerror, _CODES))
_HELP = functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=36, width=100)


def command(interrupted: str = "interrupted") -> Callable:
    """Makes a command's `main` from a function of its arguments.

    The function returns an exit status, or None for 0. `main` takes sys.argv by default and returns
    the exit status. A UserError becomes one line on stderr and the status 2. Ctrl-C becomes the
    line `interrupted`, or the KeyboardInterrupt's own text, and the status 130.
    """

    def decorate(work: Callable[[Sequence[str]], int | None]) -> Callable[..., int]:
        @functools.wraps(work)
        def main(argv: Sequence[str] | None = None) -> int:
            _prepare_streams()
            prepare_libraries()
            try:
                return work((sys.argv if argv is None else argv)[1:]) or 0
            except UserError as error:
                warn(f"error: {' '.join(str(error).split())}")
                return 2
            except KeyboardInterrupt as error:
                warn(str(error.args[0]) if error.args else interrupted)
                return 130
            except BrokenPipeError:  # The reader of the output has ended, as `| head` does.
                return 0
            finally:
                _flush_streams()

        return main

    return decorate


def _prepare_streams():
    for name in ("stdout", "stderr"):
        # A Windows service has neither stream, and libraries write to both.
        stream = getattr(sys, name) or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        # File names may hold characters that a terminal cannot show; see `files.as_text`.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, stream)


def _flush_streams():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # Python flushes again at its exit, and must not fail there.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def prepare_libraries() -> None:
    """Sets the variables that libraries read at import, and keeps their notes off stderr."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # Pillow warns of large images, palettes and tags. The commands say what is wrong with an image.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # It reports its search for fonts.


class Parser(argparse.ArgumentParser):
    """A parser of flags that raises `UserError`, and reads the flags in a --flagfile."""

    def __init__(self, name: str, description: str | None, **options):
        options |= {"allow_abbrev": False, "formatter_class": _HELP}
        super().__init__(f"python -m cutpaste_tf.{name}", description=description, **options)
        self.add_argument(
            "--flagfile",
            metavar="FILE",
            default=argparse.SUPPRESS,
            help="a file of flags, or the name of one in the package, such as lite0; later flags "
            "override it",
        )

    def add(
        self,
        name: str,
        rule: choices.Rule,
        help_text: str,
        *,
        parse: Callable[[str], Any] = str,
        group: Any = None,
        **options,
    ) -> None:
        """Adds a flag, to a group if one is given, whose values must pass a rule."""
        if rule not in (choices.ANY, choices.NOT_EMPTY, choices.BOOLEAN):
            help_text += f" ({rule.allowed})"
        value = functools.partial(_value, name, rule, parse)
        (group or self).add_argument(f"--{name}", type=value, help=help_text, **options)

    def add_threshold(self) -> None:
        """Adds --threshold and --false_positive_rate."""
        text = "call images with a higher score anomalous; default: the run's threshold"
        self.add("threshold", choices.Rule("a finite number", math.isfinite), text, parse=float)
        rate = choices.Rule("above 0 and below 1", lambda share: 0.0 < share < 1.0)
        text = "choose the threshold by the share of normal images above it, such as 0.01"
        self.add("false_positive_rate", rate, text, parse=float)

    def parse_known_args(self, args: Sequence[str], namespace: argparse.Namespace | None = None):  # noqa: ANN201
        """Parses flags, with each --flagfile replaced by the flags in the file."""
        return super().parse_known_args(list(_with_flagfiles(args)), namespace)

    def error(self, message: str) -> None:
        """Raises UserError instead of exiting; names a flag that looks like an unknown one."""
        unknown = re.match(r"unrecognized arguments: (--\w+)", message)
        close = unknown and difflib.get_close_matches(unknown[1], self._option_string_actions, 1)
        raise UserError(f"{message}; did you mean {close[0]}?" if close else message)


def _value(name, rule, parse, text):
    """The value in a flag's text; a UserError if the rule does not allow it."""
    try:
        value = parse(text)
    except ValueError:
        value = None
    if value is None or not rule.test(value):
        raise UserError(f"--{name}={text}: must be {rule.allowed}")
    return value


def find_flagfile(name: str, folder: str = "") -> str:
    """Finds a flag file: by a path, or by a bare name such as "lite0" in the package.

    Args:
      name: a path, or a name without folder and ending.
      folder: the folder that a path is relative to.

    Returns:
      The file's path.

    Raises:
      UserError: if the package has no file by a bare name.
    """
    package = pathlib.Path(__file__).resolve().parent
    # A wheel has the files inside the package; a checkout has them beside the package.
    files = [*package.glob("experiments/*.flags"), *package.parent.glob("experiments/*.flags")]
    packaged = {file.stem: str(file) for file in reversed(files)}
    path = os.path.join(folder, os.path.expanduser(name))
    bare = name and name == os.path.basename(name) and not name.endswith(".flags")
    if bare and name not in packaged and not os.path.isfile(path):
        raise UserError(
            f"--flagfile={name}: there is no such file; the package has "
            f"{', '.join(sorted(packaged))}"
        )
    return packaged.get(name, path)


def _with_flagfiles(arguments: Sequence[str], inside: tuple[str, ...] = ()) -> Iterator[str]:
    """Replaces each --flagfile by the lines of its file."""
    rest = iter(arguments)
    for argument in rest:
        name, equals, path = argument.partition("=")
        if name != "--flagfile":
            yield argument
            continue
        folder = os.path.dirname(inside[-1]) if inside else ""
        path = find_flagfile(path if equals else next(rest, ""), folder)
        if path in inside:
            raise UserError(f"--flagfile={path}: includes itself")
        lines = [x for x in read_lines(path, "flagfile") if not x.startswith(("#", "//"))]
        yield from _with_flagfiles(lines, (*inside, path))


def parse_runs(arguments: Sequence[str], description: str | None = None) -> list[Config]:
    """Parses the flags of `main` into the settings of runs.

    Returns a `Config` for each category and each seed, in the order given. A UserError says that a
    category does not exist. --help prints the description and the flags, and raises SystemExit.
    """
    from absl import flags  # Imported here: prediction with an ONNX file needs no absl.

    values = flags.FlagValues()
    flags.DEFINE_boolean("help", False, "show this help", short_name="h", flag_values=values)
    for name, field in FIELDS.items():
        if isinstance(field.default, bool):
            flags.DEFINE_boolean(name, field.default, "", flag_values=values)
        else:
            flags.DEFINE_string(name, as_flag(name, field.default), "", flag_values=values)
    try:
        rest = values(["main", *_with_flagfiles(arguments)])[1:]
    except flags.Error as error:
        raise UserError(str(error)) from error
    if values.help:
        print(_settings_help(description), end="")
        raise SystemExit(0)
    if rest:
        raise UserError(f"{rest[0]}: is no flag; flags are written as --NAME=VALUE")

    settings = {}
    for name, field in FIELDS.items():
        value, parse = values[name].value, functools.partial(from_flag, name)
        if not isinstance(value, bool) and name != "seed":
            value = _value(name, field.metadata["rule"], parse, value)
        settings[name] = value
    seed_rule = FIELDS["seed"].metadata["rule"]
    seeds = [_value("seed", seed_rule, int, text) for text in values.seed.split(",")]
    first = Config(**settings | {"seed": seeds[0]})
    return [
        dataclasses.replace(first, category=category, seed=seed)
        for category in _categories(first)
        for seed in dict.fromkeys(seeds)
    ]


def _settings_help(description):
    """The help of all settings, by groups; absl's own help has several lines for each flag."""
    parser = Parser("main", description, usage="%(prog)s [--flagfile=FILE] [--FLAG=VALUE ...]")
    for group, meaning in GROUPS.items():
        options = parser.add_argument_group(group, meaning)
        for name, field in FIELDS.items():
            if field.metadata["group"] == group:
                default = as_flag(name, field.default) or "TEXT"
                rule, text = field.metadata["rule"], field.metadata["help"]
                parser.add(name, rule, text, group=options, metavar=default)
    return parser.format_help()


def _categories(config: Config) -> list[str]:
    """The categories that --category names, each checked to exist."""
    names = choices.CATEGORIES[config.dataset]
    if names is None:
        from cutpaste_tf.data import folder

        names = folder.categories(config.data_dir)
    selected = list(dict.fromkeys(part.strip() for part in config.category.split(",")))
    if selected == ["all"]:
        return list(names)
    if config.category in names:  # A folder's name may have a comma.
        return [config.category]
    for name in selected:
        if name not in names:
            raise UserError(f"--category={name}: must be all or one of {', '.join(names)}")
    return selected


@contextlib.contextmanager
def writing(flag: str, folder: str | os.PathLike) -> Iterator[None]:
    """Turns the error of a full or write-protected disk into a UserError that names a flag."""
    try:
        yield
    except Exception as error:
        reason = _disk_fault(error)
        # An error with a file's name, unlike a connection's. Those of pyarrow lack the name.
        if isinstance(error, FileNotFoundError) or getattr(error, "filename", None) is not None:
            reason = error.strerror
        if reason is None or isinstance(error, UserError):
            raise
        raise UserError(
            f"{flag}={folder}: cannot be written ({reason}); free space or change the permissions, "
            "and start again"
        ) from error


@contextlib.contextmanager
def faults_as_warnings(what: str) -> Iterator[None]:
    """Turns errors into warnings, as a picture that fails must not end hours of training.

    A full disk still raises an error, as the run's results could not be written either. `what`
    says what is missing, such as "figures/roc.png: not drawn".
    """
    try:
        yield
    except Exception as error:
        if _disk_fault(error) is not None:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        warn(f"warning: {what} ({reason:.300})")


def _disk_fault(error):
    """The system's text for what is wrong with the disk, or None for any other error."""
    # h5py and TensorFlow give the reason only in the message.
    return next((reason for reason in _DISK_FAULTS if reason in str(error)), None)
