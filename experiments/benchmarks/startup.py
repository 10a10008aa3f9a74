"""Measures times to a first result: of --help, of a mistake, of a training and of a prediction.

    python experiments/benchmarks/startup.py [--rounds=5]

- `--help` and a mistaken flag, in a fresh process, against `import tensorflow`, with which other
  programs begin.
- A tiny run until its first step is done, against `import tensorflow`, and its parts: libraries,
  images, the network, the untrained network's scores, the first step, which is traced, and the
  second.
- The run's imports by package, as `python -X importtime` measures them: seconds in each package's
  own modules.
- `predict` until its first row, with an ONNX file that was exported from a run, against the run
  itself: EfficientNet-Lite0 at 192x192 with maps, as in lite0_pretrained.flags, with random
  weights. This needs the extra onnx.

Rounds alternate; the medians are printed.
"""

import collections
import importlib.util
import itertools
import pathlib
import re
import statistics
import sys
import tempfile
import time

import common

# To end TensorFlow takes another second, which does not count.
IMPORT = [sys.executable, "-c", "import os, tensorflow; os._exit(0)"]
MAIN = [sys.executable, "-m", "cutpaste_tf.main"]
FLAGS = "--dataset=folder --category=made --image_size=64 --width=0.25 --batch_size=16 --steps=2"
PHASES = {
    "libraries": "the libraries are imported",
    "images": "the images are decoded",
    "network": "the network is built",
    "untrained": "the untrained network is evaluated",
    "first step": "the first step, traced",
    "second step": "the second step",
}
# As in lite0_pretrained.flags, but with random weights.
SCORING = (
    "--dataset=folder --category=made --backbone=efficientnet_lite0 --features=level7 "
    "--image_size=192 --maps=features --image_score=map --steps=0"
)
# `predict`, which ends at its first row.
FIRST_ROW = """
import os, sys
from cutpaste_tf.predict import __main__ as predict, rows
rows._make_row = lambda *arguments: os._exit(0)
predict.main(sys.argv)
"""
_PHASE = re.compile(r"^PHASE (.+) (\d+\.\d+)$", re.MULTILINE)
_IMPORT_TIME = re.compile(r"^import time:\s+(\d+) \|\s+\d+ \|\s*(\S+)$", re.MULTILINE)


def first_steps(began: float, argv: list[str]) -> None:
    """Runs `main` and prints when each phase has ended; `began` is the process's start."""
    from cutpaste_tf import cli, main

    def said(phase):
        print(f"\nPHASE {phase} {time.time() - began:.6f}", flush=True)

    def after(owner, name, phase):
        function = getattr(owner, name)

        def call(*args, **kwargs):
            found = function(*args, **kwargs)
            said(phase)
            return found

        setattr(owner, name, call)

    cli.prepare_libraries()
    from cutpaste_tf.data import pipeline
    from cutpaste_tf.run import run
    from cutpaste_tf.train import classifier

    said("libraries")
    after(pipeline, "prepare", "images")  # of two calls the last counts
    after(classifier, "build_classifier", "network")
    after(run, "evaluate", "untrained")
    make = classifier.ProxyClassifier.make_train_function
    steps = iter(("first step", "second step"))

    def made(self, force=False):
        make(self, force)
        step = self.train_function

        def timed(iterator):
            logs = step(iterator)
            float(logs["loss"])
            said(next(steps))
            return logs

        self.train_function = timed

    classifier.ProxyClassifier.make_train_function = made
    raise SystemExit(main.main(["main", *argv]))


def phases(flags: list[str]) -> dict[str, float]:
    """Runs a tiny training in a fresh process; returns the seconds of each phase."""
    with tempfile.TemporaryDirectory() as workdir:
        script = str(pathlib.Path(__file__).resolve())
        command = [sys.executable, script, f"--began={time.time()!r}", *flags]
        found = common.run([*command, f"--workdir={workdir}"])
    if found.status:
        raise SystemExit(found.output)
    ends = {}
    for name, value in _PHASE.findall(found.output):
        # The trained network is evaluated too, but only after the steps.
        if name != "untrained" or name not in ends:
            ends[name] = float(value)
    ends = [0.0, *(ends[name] for name in PHASES)]
    taken = [end - begin for begin, end in itertools.pairwise(ends)]
    return dict(zip(PHASES, taken, strict=True))


def imports() -> collections.Counter:
    """Returns the seconds that a training's imports take, by package."""
    code = "import keras; from cutpaste_tf.run import run"
    output = common.run([sys.executable, "-X", "importtime", "-c", code]).output
    found = collections.Counter()
    for micros, module in _IMPORT_TIME.findall(output):
        found[module.split(".")[0]] += int(micros) / 1e6
    return found


def first_rows(rounds: int) -> dict[str, tuple[float, float]]:
    """Measures `predict` until its first row, with a run and with the file exported from it.

    Returns the seconds, and those of processor time, by the flag's name.
    """
    with common.image_folder(64, 256, tests=8) as folder:
        run_dir = folder / "runs" / "made" / "seed_0"
        flags = [*SCORING.split(), f"--data_dir={folder}", f"--workdir={folder / 'runs'}"]
        export = ["-m", "cutpaste_tf.export", f"--run={run_dir}", f"--output={folder}"]
        for command in ([*MAIN, *flags], [sys.executable, *export, "--format=onnx"]):
            _run(command)
        usual = [f"--images={folder / 'made' / 'test'}", f"--output={folder / 'scores'}"]
        models = {"run": run_dir, "model": folder / "model.onnx"}
        used = {name: [] for name in models}

        def measured(name):
            found = _run([sys.executable, "-c", FIRST_ROW, f"--{name}={models[name]}", *usual])
            used[name].append(found.cpu_seconds)
            return found.seconds

        taken = common.medians({n: lambda n=n: measured(n) for n in models}, rounds)
        return {name: (taken[name], statistics.median(used[name])) for name in models}


def _run(command, status=0):
    found = common.run(command)
    if found.status != status:
        raise SystemExit(f"{command} ended with {found.status}:\n{found.output}")
    return found


def main() -> None:
    """Measures and prints."""
    parser = common.parser(__doc__)
    parser.add_argument("--began", type=float, help="for the script's own use")
    arguments, flags = parser.parse_known_args()
    if arguments.began is not None:
        first_steps(arguments.began, flags)

    commands = {
        "import tensorflow": (IMPORT, 0),
        "python, doing nothing": ([sys.executable, "-c", ""], 0),
        "--help": ([*MAIN, "--help"], 0),
        "a mistaken flag": ([*MAIN, "--image_size=many"], 2),
    }
    taken = common.medians(
        {name: lambda case=case: _run(*case).seconds for name, case in commands.items()},
        arguments.rounds,
    )
    with common.image_folder(64, 96, tests=8) as folder:
        flags = [*FLAGS.split(), f"--data_dir={folder}"]
        rounds = [phases(flags) for _ in range(arguments.rounds + 1)][1:]
    parts = {name: statistics.median(one[name] for one in rounds) for name in PHASES}
    first = sum(parts.values()) - parts["second step"]

    print(common.machine("tensorflow", "keras"))
    for name, value in taken.items():
        print(f"{name:36s}{value:7.2f} s")
    print(f"a tiny run, until its first step    {first:7.2f} s, of which")
    for name, text in PHASES.items():
        print(f"    {text:36s}{parts[name]:7.2f} s")
    print("imported for it, seconds in the modules of")
    own = imports()
    shown = ", ".join(f"{name} {value:.2f}" for name, value in own.most_common(12))
    print(f"    {shown}; in all {own.total():.2f}")
    baseline = taken["import tensorflow"]
    for name in ("--help", "a mistaken flag"):
        common.result(name, taken[name], baseline, "s", "import tensorflow")
    common.result("first step", first, baseline, "s", "import tensorflow")
    if importlib.util.find_spec("tf2onnx") is None:
        print("predict --model: not measured; the extra onnx is not installed")
        return
    rows = first_rows(arguments.rounds)
    print(common.machine("tensorflow", "onnxruntime"))
    for name, (seconds, cpu) in rows.items():
        until = f"predict --{name}, until its first row"
        print(f"{until:36s}{seconds:7.2f} s, {cpu:.2f} of processor time")
    ours, baseline = rows["model"][0], rows["run"][0]
    common.result("first score by an ONNX file", ours, baseline, "s", "predict --run")


if __name__ == "__main__":
    main()
