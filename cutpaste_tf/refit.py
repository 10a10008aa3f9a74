"""Adds normal images to a finished run, or removes some, without any training.

    python -m cutpaste_tf.refit --run=RUNDIR --add=NEW_GOOD --output=RUNDIR2
    python -m cutpaste_tf.refit --run=RUNDIR --drop=train/good/017.png --output=RUNDIR2

Use this for another batch of material, a moved lamp, or a bad part among the good ones. The network
stays. The command fits the density and the threshold to the new set of images, and scores the run's
test images again. All commands take RUNDIR2 as a run; RUNDIR stays as it is.

--add takes images and folders. --drop takes names as in the run's normal_scores.csv, which has the
highest scores on top; paths of images; or a .txt file with a name or path on each line.
"""

import dataclasses
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence

from cutpaste_tf import cli, run_folder
from cutpaste_tf.config import Config
from cutpaste_tf.data import search, stream
from cutpaste_tf.data.split import Category, natural_order, normal_split
from cutpaste_tf.files import UserError, read_lines, say

# Entries of results.json that refit copies, as they describe the training.
_TRAINING_RESULTS = (
    *("dataset", "category", "seed", "task", "backbone", "features", "steps", "bit_depth"),
    *("proxy_accuracy", "collapse", "train_seconds", "images_per_second", "device", "versions"),
)


@cli.command(interrupted="interrupted; nothing was written")
def main(arguments: Sequence[str]) -> None:
    """Runs a command line, sys.argv by default, and returns the exit status."""
    parser = cli.Parser("refit", __doc__)
    add, several = parser.add_argument, {"nargs": "+", "action": "extend", "default": []}
    add("--run", required=True, help="a finished run: WORKDIR/CATEGORY/seed_N")
    add("--add", **several, help="more normal images, or folders of them")
    text = "training images to remove: names as in normal_scores.csv, paths, or .txt files of these"
    add("--drop", **several, help=text)
    add("--data_dir", help="where the run's images are, if they have moved")
    add("--output", required=True, help="the folder of the new run; must not exist")
    given = parser.parse_args(arguments)
    with cli.writing("--output", given.output):
        refit(given.run, given.output, given.add, given.drop, data_dir=given.data_dir, log=say)


def refit(
    run_dir: str | os.PathLike,
    output: str | os.PathLike,
    add: Sequence[str | os.PathLike] = (),
    drop: Sequence[str | os.PathLike] = (),
    *,
    data_dir: str | os.PathLike | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> dict:
    """Writes a run with the network of a finished run, fitted to other normal images.

    Args:
      run_dir: the finished run's folder.
      output: the new run's folder, which must not exist. It appears when all is done.
      add: images to add, or folders of them.
      drop: training images to remove: names as in normal_scores.csv, paths, or .txt files of these.
      data_dir: where the run's images are, if they have moved.
      log: takes a line of text.

    Returns:
      The new run's results.

    Raises:
      UserError: for a mistake that the user can correct; nothing is written then.
    """
    # 1. The images of the run, without the dropped ones, with the added ones.
    run_dir, output = pathlib.Path(run_dir), pathlib.Path(output)
    if not add and not drop:
        raise UserError("no images to add or drop; give --add, --drop or both")
    config, before = Config.load(run_dir), run_folder.read_results(run_dir)
    if os.path.lexists(output):
        raise UserError(f"--output={output}: exists already; name another, or remove it")
    # The threshold's rate and rule of the run's evaluation stay.
    config = dataclasses.replace(
        config,
        false_positive_rate=before["false_positive_rate"],
        threshold_rule=before["threshold_rule"],
        data_dir=os.path.abspath(data_dir) if data_dir else config.data_dir,
    )
    category = run_folder.load_images(config, run_dir, _expanded(drop))
    kept = category.train
    if add and not kept.from_files:
        raise UserError(f"--add: the images of --dataset={config.dataset} are not files")
    added = _added(add, output)
    for path in added:
        if path in kept.images:
            raise UserError(f"--add: the run has {path} already; leave it out")
    train = normal_split([*kept.names, *added], [*kept.images, *added])
    category = all_images = Category(train, category.test)

    # 2. The network, unchanged.
    from cutpaste_tf.data import pipeline
    from cutpaste_tf.run import pictures, results, run
    from cutpaste_tf.scoring.detector import Detector
    from cutpaste_tf.scoring.scorer import evaluate

    detector = Detector.load(run_dir)
    train_images = pipeline.prepare(train, detector.preparation)
    test_images = pipeline.prepare(category.test, detector.preparation)
    for index, other in pipeline.copies_among(train_images, test_images).items():
        if index >= len(kept):
            raise UserError(
                f"--add: {train.names[index]} is the run's test image "
                f"{category.test.names[other]}; leave it out"
            )
    in_region = train_images.in_region
    category, train_images = pipeline.without_copies(category, train_images, test_images)
    if warning := results.check_images(config, train_images, in_region):
        log(warning)
    scorer = detector.scorer
    del detector  # Its densities may take gigabytes.

    # 3. Densities, scores and threshold, as after a training.
    trained = evaluate(scorer, train_images, test_images, bool(config.false_positive_rate))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".refit-") as temporary:
        folder = pathlib.Path(temporary) / "run"
        shutil.copytree(
            run_dir / "checkpoints", folder / "checkpoints", ignore=shutil.ignore_patterns("backup")
        )
        if (run_dir / run_folder.ROI).is_file():
            shutil.copyfile(run_dir / run_folder.ROI, folder / run_folder.ROI)
        run_folder.write_settings(folder, config, all_images)
        scores = run.write_densities_and_scores(config, folder, category, trained)
        # Only the trained network is fitted to these images.
        untrained = None if config.steps else trained
        collected = {name: before[name] for name in _TRAINING_RESULTS} | {"num_train": len(train)}
        collected |= results.measure(config, category, trained, untrained, scores)
        collected["refit"] = {
            "from": os.path.abspath(run_dir),
            "from_sha256": {n: x for n, x in before["sha256"].items() if n != "settings"},
            "added": len(added),
            "dropped": before["num_train"] - len(kept),
        }
        pictures.draw_normal_images(config, folder, category.train, train_images, trained, scores)
        collected["sha256"] = run_folder.checksums(folder, config)
        run_folder.write_results(folder, collected)
        folder.rename(output)
    for line in [*_change_lines(before, collected), *results.verdict_lines(collected, output)]:
        log(line)
    log(f"written to {output}")
    return collected


def _added(sources, output):
    """The absolute paths of the images that --add names, in natural order."""
    paths = set()
    for text in map(str, sources):
        images = list(stream.find([text], output, flag="add"))
        if not images:
            raise UserError(f"--add={text}: no images there; images end in {search.endings()}")
        paths.update(map(os.path.abspath, images))
    return sorted(paths, key=natural_order)


def _expanded(names):
    """Yields the names and paths of --drop, with the lines of .txt files in their place."""
    for name in map(str, names):
        yield from read_lines(name, "drop") if name.lower().endswith(".txt") else [name]


def _change_lines(before, after):
    """Lines of text: how the results have changed."""
    refitted = after["refit"]
    yield (
        f"{before['num_train']} normal images, {refitted['added']} added, {refitted['dropped']} "
        f"dropped: {after['num_train']} now"
    )
    if after["image_auroc"] is not None:
        now, earlier = (100 * results["image_auroc"] for results in (after, before))
        yield f"image AUROC {now:.1f} (before {earlier:.1f})"
    if after["threshold"] is not None:
        yield f"threshold {after['threshold']:.4g} (before {before['threshold']:.4g})"


if __name__ == "__main__":
    sys.exit(main())
