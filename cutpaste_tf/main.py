"""Trains and evaluates CutPaste: flags in, runs out.

    python -m cutpaste_tf.main --flagfile=experiments/demo.flags
    python -m cutpaste_tf.main --flagfile=experiments/lite0.flags --data_dir=PARTS --category=bolt

The first needs no data; the second begins with images of good parts in PARTS/bolt/train/good. Each
category and seed is a run, in WORKDIR/CATEGORY/seed_N. What was interrupted is resumed, what is
finished is skipped. The values below are the defaults.
"""

import contextlib
import sys
from collections.abc import Sequence

from cutpaste_tf import cli, data, run_folder
from cutpaste_tf.config import Config
from cutpaste_tf.files import UserError, say, warn

# Nothing here imports TensorFlow before the flags are checked: --help and mistakes answer at once.


@cli.command(interrupted="interrupted; start again to resume")
def main(arguments: Sequence[str]) -> None:
    """Runs a command line, sys.argv by default, and returns the exit status."""
    runs = cli.parse_runs(arguments, __doc__)
    with cli.writing("--workdir", runs[0].workdir):
        do_runs(runs)


def do_runs(runs: Sequence[Config]) -> None:
    """Does what is not finished of some runs, and prints a summary of several."""
    states = [run_folder.state(config) for config in runs]
    categories = {}

    def load(config):
        if config.category not in categories:
            categories[config.category] = data.load(config)
        return categories[config.category]

    for config, state in zip(runs, states, strict=True):
        run_folder.check_images(config, state, load)
    results = []
    with contextlib.ExitStack() as all_locks:
        # All at once: who comes to a run hours later must not find another command at it.
        locks = [all_locks.enter_context(contextlib.ExitStack()) for _ in runs]
        for config, state, lock in zip(runs, states, locks, strict=True):
            if state != "finished":
                lock.enter_context(run_folder.locked(config))
        for config, state, lock in zip(runs, states, locks, strict=True):
            if state == "finished":
                results.append(run_folder.finished_results(config))
                continue
            from cutpaste_tf.run import run

            with lock:
                results.append(run.train_and_evaluate(config, load(config)))
    if len(results) > 1:
        print_summary(results, runs)


def print_summary(results: Sequence[dict], runs: Sequence[Config]) -> None:
    """Prints a line for each of several runs, their mean, and each category's ensemble."""
    from cutpaste_tf.scoring import metrics

    def percent(value):
        return "     -" if value is None else f"{100 * value:6.1f}"

    say(f"{'category':20s} {'seed':>4s}  AUROC  before training")
    for r in results:
        say(
            f"{r['category']:20s} {r['seed']:4d} {percent(r['image_auroc'])} "
            f"    {percent(r['untrained_image_auroc'])}"
        )
    seeds = {}
    for config in runs:
        seeds.setdefault(config.category, []).append(config.run_dir)
    for category, run_dirs in seeds.items():
        try:
            averaged = run_folder.ensemble_scores(run_dirs) if len(run_dirs) > 1 else None
        except UserError as error:  # The runs stand for themselves all the same.
            warn(f"warning: no ensemble: {error}")
            continue
        if averaged is not None:
            say(f"{category:20s}  all {percent(metrics.image_auroc(*averaged))}     (ensemble)")
    known = [r for r in results if r["image_auroc"] is not None]
    if known:
        measured = [[r[n] for r in known] for n in ("image_auroc", "untrained_image_auroc")]
        mean = [percent(None if None in some else sum(some) / len(some)) for some in measured]
        say(f"{'mean':20s}      {mean[0]}     {mean[1]}")


if __name__ == "__main__":
    sys.exit(main())
