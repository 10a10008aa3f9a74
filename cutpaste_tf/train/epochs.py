"""What each epoch took and how well it told the proxy task's classes apart, kept over restarts."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence

from cutpaste_tf.augment import proxy
from cutpaste_tf.config import Config
from cutpaste_tf.files import replacing
from cutpaste_tf.train.stages import stages

# Shorter epochs than this, in steps, tell little of the accuracy where there are longer ones.
_TELLING = 64
_DEVIATIONS = 3.0  # by chance alone one epoch in 700 is further above it


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One epoch; `accuracy` is the share of the views whose class was told, in [0, 1]."""

    steps: int
    seconds: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Collapse:
    """A training that ended with a proxy accuracy no better than chance.

    Attributes:
      since: the step from which on it was; 0 if it never was better.
      accuracy: of the last epoch.
      chance: the accuracy of guessing.
      flag: the learning rate's, of the stage in which it ended.
      learning_rate: that stage's.
    """

    since: int
    accuracy: float
    chance: float
    flag: str
    learning_rate: float

    def __str__(self) -> str:
        came = f"has come back to it by step {self.since}" if self.since else "never was better"
        longer = "" if self.since else ", or train longer"
        return (
            f"the proxy accuracy, {self.accuracy:.3f}, is no better than chance and {came}: the "
            f"network tells nothing apart; lower --{self.flag}={self.learning_rate:g}{longer}"
        )


def read(path: pathlib.Path) -> list[Epoch]:
    """Returns the epochs that `write` wrote; none where there is no such file."""
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
    """Returns the first epochs, those that ended at a step or before it."""
    kept, done = [], 0
    for epoch in epochs:
        done += epoch.steps
        if done > step:
            break
        kept.append(epoch)
    return kept


def collapse(epochs: Sequence[Epoch], config: Config) -> Collapse | None:
    """Says if a network has died with a finite loss: None if the last epoch beats chance.

    It gives all views the same answer, and as a batch has as many views of each class, its accuracy
    is that of guessing. The epochs are a training's from its first on.
    """
    classes = len(proxy.TASKS[config.task])
    chance, done, since, told = 1.0 / classes, 0, None, []
    longest = max((epoch.steps for epoch in epochs), default=0)
    for epoch in epochs:
        done += epoch.steps
        if epoch.steps < min(_TELLING, longest):
            continue
        views = epoch.steps * config.batch_size * classes
        margin = _DEVIATIONS * math.sqrt(chance * (1.0 - chance) / views)
        if epoch.accuracy > chance + margin:
            since = None
        elif since is None:
            since = done if told else 0
        told.append(epoch)
    if since is None:
        return None
    stage = next(stage for stage in stages(config) if done <= stage.end)
    return Collapse(since, told[-1].accuracy, chance, stage.flag, stage.learning_rate)
