"""Runs many experiments side by side, on Ray (extra `cluster`).

    python -m cutpaste_tf.sweep --experiments=table1 --workdir=DIR --data_dir=MVTEC_AD

Each run of each experiment is one of `cutpaste_tf.main`'s, in WORKDIR/EXPERIMENT/CATEGORY/seed_N,
with what it prints in `log.txt` there. Flags of `main` hold for all runs: `--category=bottle,screw
--seed=0,1` takes a part of a table, `--steps=800` shortens it, but for runs whose row in the paper
that flag makes, such as Table 7's numbers of epochs. Ray shares the machine out, or the
cluster that `--ray_address` names; its machines need cutpaste-tf and see the same folders.

What was interrupted is resumed, what is finished is skipped; so Ctrl-C loses an epoch at most.
`python -m cutpaste_tf.report --workdir=DIR --table=1` shows what has been reached.
"""

import argparse
import contextlib
import dataclasses
import math
import os
import pathlib
import platform
import sys
import traceback
from collections.abc import Callable, Sequence

from cutpaste_tf import cluster, command, experiments, machine
from cutpaste_tf import flags as run_flags
from cutpaste_tf.config import Config
from cutpaste_tf.files import UserError
from cutpaste_tf.run import files, images

LOG = "log.txt"
_LINE_SECONDS = 60.0  # between lines of a log file in which nothing ended


@dataclasses.dataclass(frozen=True)
class Job:
    """A run of an experiment.

    Attributes:
      experiment: the experiment's name.
      config: the run's settings.
    """

    experiment: str
    config: Config

    def __str__(self) -> str:
        return f"{self.experiment} {self.config.category} seed {self.config.seed}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
      image_auroc: a fraction, or None where it was not measured.
      error: why it failed; "" if it did not.
      final: whether trying again would be of no use.
    """

    image_auroc: float | None = None
    error: str = ""
    final: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
      argv: the command line, the program's name first; sys.argv by default.

    Returns:
      The exit status: 0; 1 where runs failed; 2 for a mistake of the user's, told in one line on
      stderr; 130 after Ctrl-C.
    """
    return command.exit_status(
        lambda: _sweep(sys.argv if argv is None else argv),
        interrupted="interrupted; start again to resume",
    )


def _sweep(argv):
    arguments, rest = _parser().parse_known_args(argv[1:])
    if arguments.list:
        print(listing(), end="")
        return 0
    if arguments.experiments is None:
        raise UserError("--experiments: name a table, experiments or flag files; see --list")
    _check(arguments)
    jobs = plan(arguments.experiments.split(","), arguments.workdir, rest)
    return sweep(jobs, arguments)


def _parser():
    parser = command.Parser(
        prog="python -m cutpaste_tf.sweep",
        description=__doc__,
    )
    add = parser.add_argument
    add("--experiments", help="tables (table1), experiments or .flags files, by commas")
    add("--list", action="store_true", help="list the experiments and their command lines")
    add("--workdir", default="runs/sweep", help="where the runs go; default %(default)s")
    add("--ray_address", help="a Ray cluster's address; without, this machine alone")
    cluster.add_flags(parser, "run")
    add("--retries", type=int, default=2, help="tries after a failure; default %(default)s")
    return parser


def _check(arguments):
    cluster.check_flags(arguments, "run")
    if arguments.retries < 0:
        raise UserError(f"--retries={arguments.retries}: must be a whole number, at least 0")
    if not arguments.workdir:
        raise UserError("--workdir=: must name a folder")


def listing() -> str:
    """Returns the experiments by table, each with its command line."""
    lines = []
    for table, of_table in {**experiments.TABLES, "others": experiments.OTHERS}.items():
        lines.append(f"{table}:")
        for experiment in of_table:
            flags = " ".join([f"--flagfile=experiments/{experiment.flagfile}", *experiment.flags])
            lines.append(f"  {experiment.name}: python -m cutpaste_tf.main {flags}")
    return "\n".join(lines) + "\n"


def plan(names: Sequence[str], workdir: str, flags: Sequence[str] = ()) -> list[Job]:
    """Finds the runs that experiments consist of.

    Args:
      names: as in `experiments.choose`.
      workdir: where the runs go.
      flags: of `main`, for all runs. What makes an experiment the one it is, such as the learning
        rate of Table 7's, stays.

    Returns:
      The runs: for each seed all experiments and categories, so that a sweep that is stopped has
      whole tables of fewer seeds.

    Raises:
      UserError: for what a flag or a file has wrong.
    """
    jobs = []
    for experiment in experiments.choose(names):
        folder = pathlib.Path(workdir) / experiment.name
        argv = [
            "sweep",
            f"--flagfile={experiments.find_flagfile(experiment)}",
            *flags,
            *experiment.flags,
            f"--workdir={folder}",
        ]
        configs = run_flags.parse(argv, "python -m cutpaste_tf.sweep")
        jobs += [(turn, Job(experiment.name, config)) for turn, config in _by_seed(configs)]
    return [job for _, job in sorted(jobs, key=lambda pair: pair[0])]


def _by_seed(configs):
    """Each run with the place of its seed among those of its category."""
    turns = {}
    for config in configs:
        turn = turns[config.category] = turns.get(config.category, -1) + 1
        yield turn, config


def sweep(jobs: Sequence[Job], arguments: argparse.Namespace) -> int:
    """Runs jobs on Ray.

    Args:
      jobs: the runs.
      arguments: the command's: ray_address, cpus_per_run, gpus_per_run, retries, workdir.

    Returns:
      The exit status, 0 or 1.

    Raises:
      UserError: if Ray is not installed, cannot be reached or has too little for one run.
    """
    states = [files.run_state(job.config) for job in jobs]
    now = images.check([job.config for job in jobs], states)
    left = [job for job, state in zip(jobs, states, strict=True) if state != "finished"]
    finished = len(jobs) - len(left)
    counts = f"{len(jobs)} runs" + (f", {finished} finished already" if finished else "")
    if not left:
        print(f"{counts}; see python -m cutpaste_tf.report --workdir={arguments.workdir} --table=N")
        return 0
    ray = cluster.start(arguments.ray_address, "--ray_address")
    try:
        cpus, gpus = arguments.cpus_per_run, arguments.gpus_per_run
        nodes = cluster.machines(ray)
        if gpus is None:
            gpus = cluster.default_gpus(nodes)
        slots = cluster.count_slots(nodes, cpus, gpus, "run")
        # Each run has a process of its own, which gives all memory back at its end.
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_calls": 1, "max_retries": 0}
        folder = os.getcwd()
        # What a run needs of a machine, such as pretrained weights, is told before any is begun;
        # and fetched by one, not by all at once.
        check = ray.remote(**options)(_check_one)
        for job in {job.experiment: job for job in left}.values():
            if not machine.needs_check(job.config):
                continue
            try:
                problem = ray.get(check.remote(job.config.to_json(), folder, gpus))
            except ray.exceptions.RayError as error:
                problem = f"{job}: cannot be checked ({cluster.reason(error)})"
            if problem:
                raise UserError(problem)
        for job, state, of_images in zip(jobs, states, now, strict=True):
            if state != "finished":
                files.begin(job.config, state, of_images)
        print(f"{counts}, {min(slots, len(left))} at a time", flush=True)
        remote = ray.remote(**options)(_train_one)

        def submit(job):
            return remote.remote(job.config.to_json(), folder, cpus, gpus)

        failed = _watch(ray, left, submit, arguments.retries)
    finally:
        ray.shutdown()
    for job, error in failed:
        print(f"failed: {job}: {error} ({job.config.run_dir / LOG})", file=sys.stderr)
    done = len(jobs) - len(failed)
    print(
        f"{done} of {len(jobs)} runs finished; see python -m cutpaste_tf.report "
        f"--workdir={arguments.workdir} --table=N"
    )
    return 1 if failed else 0


def _enter(folder: str, gpus: float) -> None:
    """Makes a worker's process one that a run can be started in."""
    os.chdir(folder)  # Paths in flags are relative to where the sweep was started.
    cluster.share_gpus(gpus)
    command.prepare_libraries()


def _check_one(text: str, folder: str, gpus: float) -> str:
    """Checks, in a Ray worker, what a run asks of the machine; returns what is wrong."""
    try:
        _enter(folder, gpus)
        machine.check(Config.from_json(text))
    except OSError as error:
        return f"{folder}: a machine of the cluster does not see it ({error.strerror})"
    except UserError as error:
        return str(error)
    return ""


def _train_one(text: str, folder: str, cpus: float, gpus: float) -> Outcome:
    """Does one run, in a Ray worker."""
    config = Config.from_json(text)
    try:
        _enter(folder, gpus)
        log = open(  # noqa: SIM115
            config.run_dir / LOG, "a", encoding="utf-8", errors="backslashreplace"
        )
    except OSError as error:
        name = platform.node()
        return Outcome(error=f"{name}: {error.filename}: {error.strerror}", final=True)
    with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            with files.locked(config):
                return Outcome(_results(config, cpus)["image_auroc"])
        except UserError as error:
            print(f"error: {error}")
            return Outcome(error=str(error), final=True)
        except Exception as error:
            traceback.print_exc(file=log)
            return Outcome(
                error=command.error_line(error, config) or f"{type(error).__name__}: {error}"
            )


def _results(config, cpus):
    """A run's results, which it is trained for if that is left to do."""
    if files.run_state(config) == "finished":
        return files.recorded_results(config)
    import tensorflow as tf

    threads = max(1, math.ceil(cpus))
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    from cutpaste_tf.run import story

    return story.run(config)


def _watch(ray, jobs: Sequence[Job], submit: Callable, retries: int) -> list[tuple[Job, str]]:
    """Waits for all jobs, trying those again that fail; returns what failed for good."""
    running = {submit(job): job for job in jobs}
    tries = dict.fromkeys(jobs, 0)
    failed = []
    with command.Progress(len(jobs), "run", _log, seconds=_LINE_SECONDS) as progress:
        while running:
            ready, _ = ray.wait(list(running), timeout=1.0)
            progress.tell("training")
            for reference in ready:
                job = running.pop(reference)
                try:
                    outcome = ray.get(reference)
                except ray.exceptions.RayError as error:
                    # A worker that was killed, by the system or for its memory, says nothing.
                    outcome = Outcome(error=cluster.reason(error))
                if not outcome.error:
                    progress.update()
                    progress.say(f"{job}: {_percent(outcome.image_auroc)}")
                    continue
                tries[job] += 1
                if outcome.final or tries[job] > retries:
                    failed.append((job, outcome.error))
                    progress.update()
                    progress.say(f"{job}: failed: {outcome.error}")
                else:
                    progress.say(f"{job} failed, try {tries[job]} of {retries}: {outcome.error}")
                    running[submit(job)] = job
    return failed


def _log(text):
    print(text, flush=True)


def _percent(auroc):
    return "not measurable" if auroc is None else f"image AUROC {100 * auroc:.1f}"


if __name__ == "__main__":
    # By its own name, so that Ray's workers import what they are to run.
    from cutpaste_tf.sweep import main as imported

    sys.exit(imported())
