"""A command line becomes the settings of the runs that it asks for.

Nothing here imports TensorFlow.
"""

import dataclasses
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from absl import flags

from cutpaste_tf import config as configs
from cutpaste_tf import rules
from cutpaste_tf.config import Config
from cutpaste_tf.files import UserError

_HELP_WIDTH = 90


def _parse_value(field: dataclasses.Field, text: str) -> Any:
    """Turns a flag's text into the field's type; a text that does not fit is a UserError."""
    default = field.default
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(default, tuple):
            return tuple(type(default[0])(x) for x in text.split(field.metadata["between"]))
        return type(default)(text.strip())
    except (ValueError, KeyError):
        raise configs.bad_value(field.name, text, field.metadata["rule"]) from None


def _flag_values() -> flags.FlagValues:
    """Defines every flag, as text or boolean, in a set of its own: no global state."""
    values = flags.FlagValues()
    for field in dataclasses.fields(Config):
        # `usage` prints the help, not absl.
        if isinstance(field.default, bool):
            flags.DEFINE_boolean(field.name, field.default, "", flag_values=values)
        else:
            text = configs.show(field.default, field.metadata["between"])
            flags.DEFINE_string(field.name, text, "", flag_values=values)
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
        "  --flagfile=FILE",
        "      read flags from a file; later flags override it",
    ]
    for group, meaning in configs.GROUPS.items():
        lines += ["", f"{group}: {meaning}"]
        for field in dataclasses.fields(Config):
            if field.metadata["group"] == group:
                default = configs.show(field.default, field.metadata["between"])
                if isinstance(field.default, bool):
                    default = default.lower()
                lines.append(f"  --{field.name}={default}")
                lines += _help_lines(field)
    return "\n".join(lines) + "\n"


def _help_lines(field):
    """What a flag is, and below that what it accepts."""
    rule, texts = field.metadata["rule"], [field.metadata["help"]]
    if rule not in (rules.ANY, rules.BOOLEAN):
        texts.append(rule.allowed)
    return [f"      {line}" for text in texts for line in textwrap.wrap(text, _HELP_WIDTH)]


def parse(argv: Sequence[str], command: str = "python -m cutpaste_tf.main") -> list[Config]:
    """Parses a command line into the runs it asks for.

    Args:
      argv: the command line, the program's name first. `--flagfile=FILE` is read as by absl.
      command: the command to name in the help text.

    Returns:
      One `Config` for each category and seed, in the order given; categories are existing ones.

    Raises:
      UserError: for an unknown flag or category, a value that is not allowed, a missing folder.
      SystemExit: with status 0, after printing the help text, for `--help`.
    """
    argv = ["--help" if arg in ("--helpfull", "--helpshort", "-help") else arg for arg in argv]
    values = _flag_values()
    try:
        rest = values(list(argv))[1:]
    except flags.Error as error:
        message = " ".join(str(error).split())
        name = message.removeprefix("flag --").split("=")[0]
        rules = {f.name: f.metadata["rule"] for f in dataclasses.fields(Config)}
        if message.startswith("flag --") and name in rules:  # Only booleans are parsed by absl.
            text = message.removeprefix(f"flag --{name}=").split(": ")[0]
            raise configs.bad_value(name, text, rules[name]) from error
        raise UserError(message.removeprefix("ERROR:: ")) from error
    except UnicodeDecodeError as error:
        raise UserError("--flagfile: the file is not UTF-8; save it as such") from error
    if values.help:
        print(usage(command), end="")
        sys.exit(0)
    if rest:
        raise UserError(f"{rest[0]!r}: not a flag; flags are written as --NAME=VALUE")

    fields = {field.name: field for field in dataclasses.fields(Config)}
    settings = {
        name: value if isinstance(value, bool) else _parse_value(field, value)
        for name, field in fields.items()
        if name not in ("category", "seed")
        for value in [values[name].value]
    }
    seeds = [_parse_value(fields["seed"], part) for part in values.seed.split(",")]
    first = Config(**settings, category=values.category, seed=seeds[0])
    if first.staged and values["steps"].present and settings["steps"] != first.steps:
        raise UserError(
            f"--steps={settings['steps']}: a training in two stages takes --head_steps + "
            f"--finetune_steps = {first.steps} steps; leave --steps out"
        )
    if not first.finetune_steps and values["finetune_learning_rate"].present:
        raise UserError(
            f"--finetune_learning_rate={first.finetune_learning_rate}: is the second stage's; give "
            "--finetune_steps too"
        )
    runs = [
        dataclasses.replace(first, category=category, seed=seed)
        for category in _categories(first)
        for seed in dict.fromkeys(seeds)
    ]
    return runs


def _categories(config: Config) -> list[str]:
    """The categories that --category names, each checked to exist."""
    asked = [part.strip() for part in config.category.split(",")]
    asked = list(dict.fromkeys(asked))
    known = configs.CATEGORIES[config.dataset]
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
