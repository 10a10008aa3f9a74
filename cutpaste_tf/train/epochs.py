"""Each epoch's time and proxy accuracy, kept over restarts, and whether a training collapsed."""

import dataclasses
import itertools
import json
import math
import pathlib
from collections.abc import Sequence

from cutpaste_tf.augment import proxy
from cutpaste_tf.config import Config
from cutpaste_tf.files import replacing
from cutpaste_tf.train.stages import stages

# Shorter epochs do not count if there are longer ones: their accuracy says little.
_ENOUGH_STEPS = 64
_DEVIATIONS = 3.0  # By chance, one epoch in 700 is further above guessing.


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One epoch; `accuracy` is the share of the views that got their own label, in [0, 1]."""

    steps: int
    seconds: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Collapse:
    """A training that ended with a proxy accuracy no better than chance."""

    accuracy: float  # of the last epoch
    chance: float  # the accuracy of guessing
    flag: str  # the learning rate's flag in the stage in which the training ended
    learning_rate: float

    def __str__(self) -> str:
        return (
            f"the proxy accuracy, {self.accuracy:.3f}, is no better than chance: the network does "
            f"not tell the classes apart; lower --{self.flag}={self.learning_rate:g}, or train "
            "longer"
        )


def read(path: pathlib.Path) -> list[Epoch]:
    """Returns the epochs that `write` wrote; none if there is no such file."""
    if not path.is_file():
        return []
    return [Epoch(**values) for values in json.loads(path.read_text(encoding="utf-8"))]


def write(path: pathlib.Path, epochs: Sequence[Epoch]) -> None:
    """Writes epochs, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        text = json.dumps([dataclasses.asdict(epoch) for epoch in epochs])
        temporary.write_text(text, encoding="utf-8")


def until(epochs: Sequence[Epoch], step: int) -> list[Epoch]:
    """Returns the epochs that ended at a step or before it."""
    ends = itertools.accumulate(epoch.steps for epoch in epochs)
    return [epoch for epoch, end in zip(epochs, ends, strict=True) if end <= step]


def collapse(epochs: Sequence[Epoch], config: Config) -> Collapse | None:
    """Finds out whether a network has died with a finite loss; None if the last epoch beats chance.

    A dead network gives all views the same answer. A batch has equally many views of each class, so
    the accuracy is that of guessing. `epochs` are all epochs of the training so far.
    """
    longest = max((epoch.steps for epoch in epochs), default=0)
    enough = [epoch for epoch in epochs if epoch.steps >= min(_ENOUGH_STEPS, longest)]
    if not enough:
        return None
    latest, classes = enough[-1], len(proxy.TASKS[config.task])
    chance, views = 1.0 / classes, latest.steps * config.batch_size * classes
    if latest.accuracy > chance + _DEVIATIONS * math.sqrt(chance * (1.0 - chance) / views):
        return None
    done = sum(epoch.steps for epoch in epochs)
    stage = next(stage for stage in stages(config) if done <= stage.end)
    return Collapse(latest.accuracy, chance, stage.flag, stage.learning_rate)
