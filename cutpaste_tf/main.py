"""Trains and evaluates CutPaste: flags in, runs out.

    python -m cutpaste_tf.main --flagfile=demo
    python -m cutpaste_tf.main --flagfile=lite0 --data_dir=PARTS --category=bolt

The first command needs no data. The second needs images of good parts in PARTS/bolt/train/good.
Each category and seed is a run, in WORKDIR/CATEGORY/seed_N. An interrupted run is resumed, and a
finished run is skipped. The list below shows each flag with its default.
"""

import contextlib
import sys
from collections.abc import Callable, Sequence

from cutpaste_tf import cli, data, run_folder
from cutpaste_tf.config import Config
from cutpaste_tf.data.split import Category
from cutpaste_tf.files import UserError, say, warn

# Nothing here imports TensorFlow before the flags are checked: --help and mistakes answer at once.


@cli.command(interrupted="interrupted; start again to resume")
def main(arguments: Sequence[str]) -> None:
    """Runs a command line, sys.argv by default, and returns the exit status."""
    runs = cli.parse_runs(arguments, __doc__)
    with cli.writing("--workdir", runs[0].workdir):
        results = do_runs(runs)
    if len(results) > 1:
        print_summary(results, runs)


def do_runs(runs: Sequence[Config]) -> list[dict]:
    """Trains and evaluates the runs that are not finished; returns the results of all runs."""
    states, load = check(runs)
    results = []
    with contextlib.ExitStack() as locks:
        # All locks at once: no other command can take a run that has its turn hours later.
        for config, state in zip(runs, states, strict=True):
            if state != "finished":
                locks.enter_context(run_folder.locked(config))
        for config, state in zip(runs, states, strict=True):
            if state == "finished":
                results.append(run_folder.finished_results(config))
            else:
                from cutpaste_tf.run import run

                results.append(run.train_and_evaluate(config, load(config)))
    return results


def check(runs: Sequence[Config]) -> tuple[list[str], Callable[[Config], Category]]:
    """Checks that the settings of earlier runs, and images of unfinished ones, have not changed.

    Returns the states of the runs, and a function that loads a run's images, once per category.
    """
    states = [run_folder.state(config) for config in runs]
    categories = {}

    def load(config):
        key = config.dataset, config.data_dir, config.category
        if key not in categories:
            categories[key] = data.load(config)
        return categories[key]

    for config, state in zip(runs, states, strict=True):
        if state != "finished":
            run_folder.check_images(config, load(config))
    return states, load


def print_summary(results: Sequence[dict], runs: Sequence[Config]) -> None:
    """Prints a line for each run, a line for each category's ensemble, and the mean of the runs."""
    from cutpaste_tf.scoring import metrics

    def percent(value):
        return "     -" if value is None else f"{100 * value:6.1f}"

    names = ("image_auroc", "untrained_image_auroc")
    say(f"{'category':20s} {'seed':>4s}  AUROC  before training")
    for result in results:
        auroc, untrained = (percent(result[name]) for name in names)
        say(f"{result['category']:20s} {result['seed']:4d} {auroc}     {untrained}")
    for category in dict.fromkeys(config.category for config in runs):
        run_dirs = [config.run_dir for config in runs if config.category == category]
        try:
            averaged = run_folder.ensemble_scores(run_dirs) if len(run_dirs) > 1 else None
        except UserError as error:  # The runs are complete without an ensemble.
            warn(f"warning: no ensemble: {error}")
            continue
        if averaged is not None:
            say(f"{category:20s}  all {percent(metrics.image_auroc(*averaged))}     (ensemble)")
    measured = [result for result in results if result["image_auroc"] is not None]
    if measured:
        columns = [[result[name] for result in measured] for name in names]
        means = [percent(None if None in x else sum(x) / len(x)) for x in columns]
        say(f"{'mean':20s}      {means[0]}     {means[1]}")


if __name__ == "__main__":
    sys.exit(main())
