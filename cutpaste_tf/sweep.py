"""Runs many experiments side by side, on Ray (extra `cluster`).

    python -m cutpaste_tf.sweep --experiments=table1 --workdir=DIR --data_dir=MVTEC_AD

Each run is made as by `cutpaste_tf.main`, in WORKDIR/EXPERIMENT/CATEGORY/seed_N; `log.txt` there
has what the run prints. Flags of `main` apply to all runs: `--category=bottle,screw --seed=0,1`
takes a part of a table, and `--steps=800` shortens all runs except those of Table 7, which differ
in their steps. Ray distributes the runs over this machine, or over the cluster at `--ray_address`,
whose machines need cutpaste-tf and the same folders.

An interrupted run is resumed, and a finished run is skipped, so Ctrl-C loses one epoch at most.
`python -m cutpaste_tf.report --workdir=DIR --table=1` shows the results so far.
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

import tqdm

from cutpaste_tf import choices, cli, cluster
from cutpaste_tf.config import Config
from cutpaste_tf.files import UserError, say, warn
from cutpaste_tf.main import check, do_runs
from cutpaste_tf.report import paper

LOG = "log.txt"


@dataclasses.dataclass(frozen=True)
class Job:
    """A run of an experiment."""

    experiment: str
    config: Config

    def __str__(self) -> str:
        return f"{self.experiment} {self.config.category} seed {self.config.seed}"


@cli.command(interrupted="interrupted; start again to resume")
def main(arguments: Sequence[str]) -> int:
    """Runs a command line, sys.argv by default; returns the exit status, 1 if a run failed."""
    parser = cli.Parser("sweep", __doc__)
    add = parser.add_argument
    add("--experiments", help="tables (table1), experiments or .flags files, comma-separated")
    add("--list", action="store_true", help="list the experiments and their command lines")
    add("--workdir", default="runs/sweep", help="the folder of the runs; default %(default)s")
    add("--ray_address", help="a Ray cluster's address; default: only this machine")
    cluster.add_flags(parser, "run")
    tries = "further tries of a run that fails; default 2"
    parser.add("retries", choices.whole(0), tries, parse=int, default=2)
    arguments, rest = parser.parse_known_args(arguments)
    if arguments.list:
        print(listing(), end="")
        return 0
    if arguments.experiments is None:
        raise UserError("--experiments: name a table, experiments or flag files; see --list")
    jobs = plan(arguments.experiments.split(","), arguments.workdir, rest)
    return sweep(jobs, arguments)


def listing() -> str:
    """Returns text: the experiments by table, each with its command line."""
    lines = []
    for table, rows in paper.EXPERIMENTS.items():
        lines.append(f"{table}:")
        for experiment in rows:
            flags = " ".join([f"--flagfile={experiment.flagfile}", *experiment.flags])
            lines.append(f"  {experiment.name}: python -m cutpaste_tf.main {flags}")
    return "\n".join(lines) + "\n"


def plan(names: Sequence[str], workdir: str, flags: Sequence[str] = ()) -> list[Job]:
    """Finds the runs of experiments, by name, with flags of `main` for all of them.

    The flags do not override those of an experiment, such as a learning rate of Table 7. All runs
    of a seed come before those of the next seed, so a sweep that is stopped has whole tables, of
    fewer seeds.
    """
    jobs = []
    for experiment in paper.choose(names):
        flagfile = f"--flagfile={experiment.flagfile}"
        folder = f"--workdir={pathlib.Path(workdir) / experiment.name}"
        configs = cli.parse_runs([flagfile, *flags, *experiment.flags, folder])
        jobs += [Job(experiment.name, config) for config in configs]
    return sorted(jobs, key=lambda job: job.config.seed)


def sweep(jobs: Sequence[Job], arguments: argparse.Namespace) -> int:
    """Runs jobs on Ray; returns the exit status, 0 or 1."""
    states, _ = check([job.config for job in jobs])
    unfinished = [job for job, state in zip(jobs, states, strict=True) if state != "finished"]
    finished = len(jobs) - len(unfinished)
    counts = f"{len(jobs)} runs" + (f", {finished} finished already" if finished else "")
    report = f"python -m cutpaste_tf.report --workdir={arguments.workdir} --table=N"
    if not unfinished:
        say(f"{counts}; see {report}")
        return 0
    ray = cluster.start(arguments.ray_address, "--ray_address")
    try:
        cpus, gpus, slots = cluster.share_out(
            ray, "run", arguments.cpus_per_run, arguments.gpus_per_run
        )
        with cli.writing("--workdir", arguments.workdir):
            for job in unfinished:  # The workers write their logs there.
                job.config.run_dir.mkdir(parents=True, exist_ok=True)
        say(f"{counts}, {min(slots, len(unfinished))} at a time")
        # Each run has a process of its own, whose end frees all memory.
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_calls": 1}
        train = ray.remote(max_retries=arguments.retries, retry_exceptions=True, **options)(_train)
        running = {
            train.remote(job.config.to_json(), os.getcwd(), cpus, gpus): job for job in unfinished
        }
        failed = _watch(ray, running)
    finally:
        ray.shutdown()
    for job, error in failed:
        warn(f"failed: {job}: {error} ({job.config.run_dir / LOG})")
    say(f"{len(jobs) - len(failed)} of {len(jobs)} runs finished; see {report}")
    return 1 if failed else 0


def _train(text, folder, cpus, gpus):
    """Does one run in a Ray worker; returns its results, or the text of a UserError."""
    cluster.prepare_worker(cpus, gpus)
    config = Config.from_json(text)
    try:
        os.chdir(folder)  # Paths in flags are relative to where the sweep was started.
        log = open(config.run_dir / LOG, "a", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        return f"{platform.node()}: {error.filename}: {error.strerror}"
    with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            with cli.writing("--workdir", config.workdir):
                return do_runs([config])[0]
        except UserError as error:  # Another try would not help.
            print(f"error: {error}")
            return str(error)
        except Exception:
            traceback.print_exc(file=log)
            raise


def _watch(ray, running: dict[Any, Job]) -> list[tuple[Job, str]]:
    """Waits for all runs; returns those that failed, with the reasons."""
    running, failed = dict(running), []
    with tqdm.tqdm(total=len(running), unit="run", leave=False, disable=None) as bar:
        while running:
            ready, _ = ray.wait(list(running), timeout=1.0)
            bar.refresh()
            for reference in ready:
                job = running.pop(reference)
                try:
                    outcome = ray.get(reference)
                except ray.exceptions.RayError as error:
                    outcome = cluster.reason(error)
                bar.update()
                if isinstance(outcome, str):
                    failed.append((job, outcome))
                    text = f"failed: {outcome}"
                elif outcome["image_auroc"] is None:
                    text = "no image AUROC, as test images of one kind are missing"
                else:
                    text = f"image AUROC {100 * outcome['image_auroc']:.1f}"
                with bar.external_write_mode():  # as tqdm.write, but no full disk ends a sweep
                    say(f"{job}: {text}")
    return failed


if __name__ == "__main__":
    # Imported by the module's name, by which Ray's workers find the functions that they run.
    from cutpaste_tf.sweep import main as imported

    sys.exit(imported())
