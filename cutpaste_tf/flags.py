"""A command line becomes the settings of the runs that it asks for.

Nothing here imports TensorFlow.
"""

import dataclasses
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from cutpaste_tf import choices
from cutpaste_tf.config import FIELDS, GROUPS, Config, as_flag
from cutpaste_tf.files import UserError, read_lines

_HELP_COLUMN, _HELP_WIDTH = 36, 64


def _parse_value(name: str, text: str) -> Any:
    """Turns a flag's text into the setting's type; a text that does not fit is a UserError."""
    default, metadata = FIELDS[name].default, FIELDS[name].metadata
    try:
        if isinstance(default, tuple):
            return tuple(type(default[0])(part) for part in text.split(metadata["between"]))
        return type(default)(text.strip())
    except ValueError:
        raise UserError(f"--{name}={text}: must be {metadata['rule'].allowed}") from None


def _flag_values() -> flags.FlagValues:
    """Defines every flag, as text or boolean, in a set of its own: no global state."""
    values = flags.FlagValues()
    for name, field in FIELDS.items():
        # `usage` prints the help, not absl.
        if isinstance(field.default, bool):
            flags.DEFINE_boolean(name, field.default, "", flag_values=values)
        else:
            flags.DEFINE_string(name, as_flag(name, field.default), "", flag_values=values)
    flags.DEFINE_boolean("help", False, "show this help", short_name="h", flag_values=values)
    return values


def usage(command: str) -> str:
    """Returns the help text of a command that takes these flags, by groups."""
    lines = [
        f"usage: {command} [--flagfile=FILE] [--FLAG=VALUE ...]",
        "",
        "to begin with, images of good parts in PARTS/bolt/train/good:",
        f"  {command} --flagfile=experiments/lite0.flags --data_dir=PARTS --category=bolt",
        "",
        *_help_lines("flagfile=FILE", "read flags from a file; later flags override it"),
    ]
    for group, meaning in GROUPS.items():
        lines += ["", f"{group}: {meaning}"]
        for name, field in FIELDS.items():
            if field.metadata["group"] == group:
                rule, text = field.metadata["rule"], field.metadata["help"]
                if rule not in (choices.ANY, choices.NOT_EMPTY, choices.BOOLEAN):
                    text += f" ({rule.allowed})"
                lines += _help_lines(f"{name}={as_flag(name, field.default)}", text)
    return "\n".join(lines) + "\n"


def _help_lines(flag, text):
    """A flag on the left, and what it is on the right."""
    first, *more = textwrap.wrap(text, _HELP_WIDTH)
    return [f"{f'  --{flag}':{_HELP_COLUMN}}{first}", *(" " * _HELP_COLUMN + x for x in more)]


def parse(argv: Sequence[str], command: str = "python -m cutpaste_tf.main") -> list[Config]:
    """Parses a command line into the runs it asks for.

    Args:
      argv: the command line, the program's name first. `--flagfile=FILE` stands for a file's lines.
      command: the command to name in the help text.

    Returns:
      One `Config` for each category and seed, in the order given; categories are existing ones.

    Raises:
      UserError: for an unknown flag or category, a value that is not allowed, a missing folder.
      SystemExit: with status 0, after printing the help text, for `--help`.
    """
    values = _flag_values()
    try:
        rest = values([argv[0], *_expanded(argv[1:])])[1:]
    except flags.Error as error:
        raise UserError(" ".join(str(error).split())) from error
    if values.help:
        print(usage(command), end="")
        sys.exit(0)
    if rest:
        raise UserError(f"{rest[0]!r}: not a flag; flags are written as --NAME=VALUE")

    settings = {
        name: value if isinstance(value, bool) else _parse_value(name, value)
        for name in FIELDS
        if name not in ("category", "seed")
        for value in [values[name].value]
    }
    seeds = [_parse_value("seed", part) for part in values.seed.split(",")]
    first = Config(**settings, category=values.category, seed=seeds[0])
    return [
        dataclasses.replace(first, category=category, seed=seed)
        for category in _categories(first)
        for seed in dict.fromkeys(seeds)
    ]


def _expanded(arguments: Sequence[str], inside: tuple[str, ...] = ()) -> Iterator[str]:
    """Puts flag files' lines in their places; absl's own reading knows no byte-order mark."""
    rest = iter(arguments)
    for argument in rest:
        name, given, path = argument.partition("=")
        if name not in ("--flagfile", "-flagfile"):
            yield argument
            continue
        path = os.path.expanduser(path if given else next(rest, ""))
        if path in inside:
            raise UserError(f"--flagfile={path}: names itself")
        lines = [x for x in read_lines(path, "flagfile") if not x.startswith(("#", "//"))]
        yield from _expanded(lines, (*inside, path))


def _categories(config: Config) -> list[str]:
    """The categories that --category names, each checked to exist."""
    asked = [part.strip() for part in config.category.split(",")]
    asked = list(dict.fromkeys(asked))
    known = choices.CATEGORIES[config.dataset]
    if known is None:
        from cutpaste_tf.data import folder

        known = folder.categories(config.data_dir)
    if asked == ["all"]:
        return list(known)
    if config.category in known:  # A folder's name may have a comma.
        return [config.category]
    for name in asked:
        if name not in known:
            raise UserError(f"--category={name}: must be all or one of {', '.join(known)}")
    return asked
