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
import os
import pathlib
import platform
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from cutpaste_tf import choices, cli, cluster, data, run_folder
from cutpaste_tf.config import Config
from cutpaste_tf.files import UserError, say, warn
from cutpaste_tf.report import paper

LOG = "log.txt"
_LINE_SECONDS = 60.0  # between lines of a log file in which nothing ended


@dataclasses.dataclass(frozen=True)
class Job:
    """A run of an experiment."""

    experiment: str
    config: Config

    def __str__(self) -> str:
        return f"{self.experiment} {self.config.category} seed {self.config.seed}"


@cli.command(interrupted="interrupted; start again to resume")
def main(arguments: Sequence[str]) -> int:
    """Runs a command line, sys.argv by default; returns the exit status, 1 where runs failed."""
    arguments, rest = _parser().parse_known_args(arguments)
    if arguments.list:
        print(listing(), end="")
        return 0
    if arguments.experiments is None:
        raise UserError("--experiments: name a table, experiments or flag files; see --list")
    jobs = plan(arguments.experiments.split(","), arguments.workdir, rest)
    return sweep(jobs, arguments)


def _parser():
    parser = cli.Parser("sweep", __doc__)
    add = parser.add_argument
    add("--experiments", help="tables (table1), experiments or .flags files, by commas")
    add("--list", action="store_true", help="list the experiments and their command lines")
    add("--workdir", default="runs/sweep", help="where the runs go; default %(default)s")
    add("--ray_address", help="a Ray cluster's address; without, this machine alone")
    cluster.add_flags(parser, "run")
    parser.add(
        "retries", choices.whole(0), "tries after a failure; default 2", parse=int, default=2
    )
    return parser


def listing() -> str:
    """Returns the experiments by table, each with its command line."""
    lines = []
    for table, of_table in paper.EXPERIMENTS.items():
        lines.append(f"{table}:")
        for experiment in of_table:
            flags = " ".join([f"--flagfile=experiments/{experiment.flagfile}", *experiment.flags])
            lines.append(f"  {experiment.name}: python -m cutpaste_tf.main {flags}")
    return "\n".join(lines) + "\n"


def plan(names: Sequence[str], workdir: str, flags: Sequence[str] = ()) -> list[Job]:
    """Finds the runs of experiments, with flags of `main` that hold for all.

    What makes an experiment the one it is, such as the learning rate of Table 7's, stays. Seed
    comes after seed, so that a sweep that is stopped has whole tables of fewer seeds.
    """
    jobs = []
    for experiment in paper.choose(names):
        folder = pathlib.Path(workdir) / experiment.name
        argv = [
            f"--flagfile={paper.find_flagfile(experiment)}",
            *flags,
            *experiment.flags,
            f"--workdir={folder}",
        ]
        configs = cli.parse_runs(argv)
        jobs += [Job(experiment.name, config) for config in configs]
    return sorted(jobs, key=lambda job: job.config.seed)


def sweep(jobs: Sequence[Job], arguments: argparse.Namespace) -> int:
    """Runs jobs on Ray, by the command's arguments; returns the exit status, 0 or 1."""
    states = [run_folder.state(job.config) for job in jobs]
    categories = {}

    def load(config):
        place = config.dataset, config.data_dir, config.category
        if place not in categories:
            categories[place] = data.load(config)
        return categories[place]

    for job, state in zip(jobs, states, strict=True):
        run_folder.check_images(job.config, state, load)
    left = [job for job, state in zip(jobs, states, strict=True) if state != "finished"]
    finished = len(jobs) - len(left)
    counts = f"{len(jobs)} runs" + (f", {finished} finished already" if finished else "")
    if not left:
        say(f"{counts}; see python -m cutpaste_tf.report --workdir={arguments.workdir} --table=N")
        return 0
    ray = cluster.start(arguments.ray_address, "--ray_address")
    try:
        cpus, gpus, slots = cluster.share_out(
            ray, "run", arguments.cpus_per_run, arguments.gpus_per_run
        )
        for job in left:
            with run_folder.locked(job.config):  # makes its folder, which all workers must see
                pass
        say(f"{counts}, {min(slots, len(left))} at a time")
        # Each run has a process of its own, which gives all memory back at its end.
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_calls": 1}
        train = ray.remote(max_retries=arguments.retries, retry_exceptions=True, **options)(_train)
        texts = [job.config.to_json() for job in left]
        running = {
            train.remote(text, os.getcwd(), cpus, gpus): job
            for text, job in zip(texts, left, strict=True)
        }
        failed = _watch(ray, running)
    finally:
        ray.shutdown()
    for job, error in failed:
        warn(f"failed: {job}: {error} ({job.config.run_dir / LOG})")
    say(
        f"{len(jobs) - len(failed)} of {len(jobs)} runs finished; see python -m cutpaste_tf.report "
        f"--workdir={arguments.workdir} --table=N"
    )
    return 1 if failed else 0


def _train(text, folder, cpus, gpus):
    """Does one run, in a Ray worker; returns its results, or the line of a mistake."""
    cluster.prepare_worker(cpus, gpus)
    config = Config.from_json(text)
    try:
        os.chdir(folder)  # Paths in flags are relative to where the sweep was started.
        log = open(config.run_dir / LOG, "a", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        return f"{platform.node()}: {error.filename}: {error.strerror}"
    with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            with cli.writing("--workdir", config.workdir), run_folder.locked(config):
                if run_folder.state(config) == "finished":
                    return run_folder.finished_results(config)
                from cutpaste_tf.run import run

                return run.train_and_evaluate(config, data.load(config))
        except UserError as error:  # Trying again would be of no use.
            print(f"error: {error}")
            return str(error)
        except Exception:
            traceback.print_exc(file=log)
            raise


def _watch(ray, running: dict[Any, Job]) -> list[tuple[Job, str]]:
    """Waits for all runs; returns what failed and why."""
    running, failed = dict(running), []
    with cli.Progress(len(running), "run", say, seconds=_LINE_SECONDS) as progress:
        while running:
            ready, _ = ray.wait(list(running), timeout=1.0)
            progress.tell("training")
            for reference in ready:
                job = running.pop(reference)
                try:
                    outcome = ray.get(reference)
                except ray.exceptions.RayError as error:
                    outcome = cluster.reason(error)
                progress.update()
                if isinstance(outcome, str):
                    failed.append((job, outcome))
                    progress.say(f"{job}: failed: {outcome}")
                else:
                    progress.say(f"{job}: {_percent(outcome['image_auroc'])}")
    return failed


def _percent(auroc):
    return "not measurable" if auroc is None else f"image AUROC {100 * auroc:.1f}"


if __name__ == "__main__":
    # By its own name, so that Ray's workers import what they are to run.
    from cutpaste_tf.sweep import main as imported

    sys.exit(imported())
