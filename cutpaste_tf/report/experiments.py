"""The paper's experiments by name: which flag file, and which flags besides, make which row.

    python -m cutpaste_tf.sweep --list

A column of Tables 1 to 5 is a file in `experiments/`, and so is one of Section 5.4. A value of the
ablations in Tables 7 and 8 is the file of CutPaste (3-way) with one flag more; Table 6 is two of
Table 1's with one flag more. `experiments/README.md` lists them all.

Nothing here imports TensorFlow.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from cutpaste_tf.config import EPOCH_STEPS
from cutpaste_tf.files import UserError


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A column of a table, of all categories and seeds; the name is also that of its runs' folder.

    `flagfile` is a file's name in `experiments/` or a whole path; `flags` come after it.
    """

    name: str
    flagfile: str
    flags: tuple[str, ...] = ()


def _of_file(name: str) -> Experiment:
    return Experiment(name, f"{name}.flags")


_3WAY = "resnet18_cutpaste_3way"


def _ablation(name: str, flag: str) -> Experiment:
    return Experiment(f"resnet18_{name}", f"{_3WAY}.flags", (flag,))


_DEFAULT = _of_file(_3WAY)
# The bold-faced values of Appendix A.3 are CutPaste (3-way) itself.
_LEARNING_RATES = [
    _DEFAULT if rate == "0.03" else _ablation(f"learning_rate_{rate}", f"--learning_rate={rate}")
    for rate in ("0.1", "0.03", "0.01", "0.003")
]
_EPOCHS = [
    _DEFAULT if epochs == 256 else _ablation(f"epochs_{epochs}", f"--steps={epochs * EPOCH_STEPS}")
    for epochs in (128, 192, 256, 320, 384)
]
_JITTERS = [
    _DEFAULT if jitter == "0.1" else _ablation(f"jitter_{jitter}", f"--jitter={jitter}")
    for jitter in ("0.0", "0.1", "0.2", "0.3")
]
_SIZES = [
    _DEFAULT if size == "0.15" else _ablation(f"size_{size}", f"--area_ratio=0.02,{size}")
    for size in ("0.1", "0.15", "0.2", "0.3")
]

# The experiments that each table's own columns are made of; Table 1's ensemble is of the five seeds
# of CutPaste (3-way).
TABLES: dict[str, tuple[Experiment, ...]] = {
    "table1": tuple(
        _of_file(f"resnet18_{task}")
        for task in ("rotation", "cutout", "scar", "cutpaste", "cutpaste_scar", "cutpaste_3way")
    ),
    # Section 4.2 compares the patch model with GradCAM on the image-level one.
    "table2": (_of_file("resnet18_patch_3way"), _of_file("resnet18_gradcam")),
    "table3": (_of_file("effnet_b4"),),
    "table4": tuple(
        _of_file(f"resnet18_{task}")
        for task in ("cutout", "cutout_mean", "cutout_color", "confetti", "cutpaste")
    ),
    "table5": tuple(
        _of_file(f"resnet18_{task}")
        for task in ("cutpaste", "cutpaste_scar", "cutpaste_union", "cutpaste_3way")
    ),
    # Section 5.3: two of Table 1's trainings, tested on all seven kinds of synthetic anomalies
    # besides; a sweep of both tables, or of one after the other, trains them once.
    "table6": tuple(
        Experiment(f"resnet18_{task}", f"resnet18_{task}.flags", ("--test_anomalies=all",))
        for task in ("cutout", "cutpaste_3way")
    ),
    "table7": tuple(dict.fromkeys((*_LEARNING_RATES, *_EPOCHS))),
    "table8": tuple(dict.fromkeys((*_JITTERS, *_SIZES))),
    # Section 5.4, whose numbers are in the text.
    "cifar10": tuple(_of_file(f"cifar10_{task}") for task in ("rotation", "cutout", "cutpaste")),
}
# What no table needs: the pretrained columns of Table 3 without fine-tuning, the recipes for one's
# own images on a CPU, the demo, and a small one from scratch.
OTHERS = tuple(
    map(_of_file, ("effnet_b4_pretrained", "lite0", "lite0_pretrained", "demo", "resnet18_demo"))
)


def all_experiments() -> dict[str, Experiment]:
    """Returns all experiments by name, those that are in no table too."""
    listed = (*(e for table in TABLES.values() for e in table), *OTHERS)
    by_name = {}
    for experiment in listed:
        by_name.setdefault(experiment.name, experiment)  # without Table 6's further tests
    return by_name


def choose(names: Sequence[str]) -> list[Experiment]:
    """Finds experiments.

    Args:
      names: of tables ("table1"), of experiments ("resnet18_rotation"), or paths of flag files.

    Returns:
      The experiments, each once, in their order.

    Raises:
      UserError: naming what is not known.
    """
    chosen, by_name = [], all_experiments()
    for name in names:
        if name in TABLES:
            chosen += TABLES[name]
        elif name in by_name:
            chosen.append(by_name[name])
        elif name.endswith(".flags"):
            path = pathlib.Path(name)
            if not path.is_file():
                raise UserError(f"--experiments={name}: there is no such file")
            chosen.append(Experiment(path.stem, str(path.absolute())))
        else:
            raise UserError(
                f"--experiments={name}: must be a table ({', '.join(TABLES)}), an experiment that "
                "--list lists, or a file ending in .flags"
            )
    unique = {}
    for experiment in chosen:
        other = unique.setdefault(experiment.name, experiment)
        if other.flagfile != experiment.flagfile:
            raise UserError(
                f"--experiments: {other.flagfile} and {experiment.flagfile} would share the folder "
                f"{experiment.name}; rename one"
            )
        if experiment.flags:  # Of one training with and without further tests, the one with them.
            unique[experiment.name] = experiment
    return list(unique.values())


def find_flagfile(experiment: Experiment) -> str:
    """Returns the path of an experiment's flag file.

    Raises:
      UserError: if it is not there, as when the package is installed without a checkout.
    """
    if pathlib.Path(experiment.flagfile).is_absolute():  # a file of the user's
        return experiment.flagfile
    beside = pathlib.Path(__file__).resolve().parents[2] / "experiments"
    for path in (
        pathlib.Path("experiments") / experiment.flagfile,
        beside / experiment.flagfile,
    ):
        if path.is_file():
            return str(path)
    raise UserError(
        f"experiments/{experiment.flagfile}: there is no such file; run this from a checkout of "
        "cutpaste-tf, or name a file of your own ending in .flags"
    )
