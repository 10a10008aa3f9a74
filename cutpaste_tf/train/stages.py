"""The stages of a training (Appendix A.4)."""

import dataclasses

from cutpaste_tf.config import Config


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the training with its own optimiser and cosine cycle.

    With `freezes_norms`, the backbone's batch normalisation stays as it is, in inference mode.
    """

    name: str  # "training" for the only stage, else "head" or "finetune"
    first_step: int
    steps: int
    learning_rate: float
    trains_backbone: bool = True
    freezes_norms: bool = False

    @property
    def end(self) -> int:
        """The number of the training's steps at the stage's end."""
        return self.first_step + self.steps

    @property
    def flag(self) -> str:
        """The flag of the stage's learning rate, without dashes."""
        return "finetune_learning_rate" if self.name == "finetune" else "learning_rate"


def stages(config: Config) -> list[Stage]:
    """Returns the stages of a training, in their order; those without steps are left out."""
    if not config.staged:
        planned = [Stage("training", 0, config.steps, config.learning_rate)]
    else:
        # Appendix A.4: the head with the pretrained backbone frozen, then all layers, with batch
        # normalisation frozen throughout.
        head, rest = config.head_steps, config.finetune_steps
        planned = [
            Stage("head", 0, head, config.learning_rate, False, True),
            Stage("finetune", head, rest, config.finetune_learning_rate, True, True),
        ]
    return [stage for stage in planned if stage.steps]
