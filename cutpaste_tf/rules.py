"""What a flag accepts: a test of its value, and the words for it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a flag accepts: a sentence for the message, and the test."""

    allowed: str
    test: Callable[[Any], bool]


def choice(*values: str) -> Rule:
    """Accepts some texts."""
    return Rule(f"one of {', '.join(values)}", lambda value: value in values)


def some(names: Sequence[str], *alone: str) -> Rule:
    """Accepts one of the texts that stand alone, or some of the names, separated by commas."""
    return Rule(
        f"{', '.join(alone)}, or some of {', '.join(names)}, separated by commas",
        lambda text: text in alone or set(text.split(",")) <= set(names),
    )


def whole(low: int, high: int | None = None) -> Rule:
    """Accepts whole numbers."""
    if high is None:
        return Rule(f"a whole number, at least {low}", lambda value: value >= low)
    return Rule(f"a whole number from {low} to {high}", lambda value: low <= value <= high)


def real(low: float, high: float, *, above: bool = False) -> Rule:
    """Accepts numbers; `low` itself unless `above`."""
    if above:
        return Rule(f"a number above {low:g}, at most {high:g}", lambda x: low < x <= high)
    return Rule(f"a number from {low:g} to {high:g}", lambda x: low <= x <= high)


def interval(low: float, high: float, *, whole: bool = False) -> Rule:
    """Accepts pairs of numbers, the smaller one first."""
    kind = "whole numbers" if whole else "numbers"
    return Rule(
        f"two {kind} LOW,HIGH with {low:g} <= LOW <= HIGH <= {high:g}",
        lambda pair: len(pair) == 2 and low <= pair[0] <= pair[1] <= high,
    )


ANY = Rule("any text", lambda value: True)
BOOLEAN = Rule("true or false", lambda value: True)
