"""Takes further normal images into a finished run, or some out of it, without any training.

    python -m cutpaste_tf.refit --run=RUNDIR --add=NEW_GOOD --output=RUNDIR2
    python -m cutpaste_tf.refit --run=RUNDIR --drop=train/good/017.png --output=RUNDIR2

For another batch of material, a moved lamp, or a bad part among the good ones: densities, scores
of normal images and threshold are made anew, and the network stays. RUNDIR2 is a run as any other,
to predict with, to export, or to be refitted again; RUNDIR stays as it is. What the run's test
images say of it is measured again, where they are still there.

--add takes images and folders, --drop what is to go: names as in the run's normal_scores.csv (its
worst are on top), images' paths, or a .txt file with a name or path on each line.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cutpaste_tf import artifacts, command, data
from cutpaste_tf.config import Config
from cutpaste_tf.data import fingerprint, normals, search
from cutpaste_tf.data.normals import Normals
from cutpaste_tf.data.split import Split, normal
from cutpaste_tf.files import UserError, replacing
from cutpaste_tf.run import files

# Nothing here imports TensorFlow before the command line is checked.

# Of an earlier results.json: what the training has to say, whatever the densities are of.
_OF_THE_TRAINING = (
    *("dataset", "category", "seed", "task", "backbone", "features", "steps", "bit_depth"),
    *("proxy_accuracy", "collapse", "train_seconds", "images_per_second", "device", "versions"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
      argv: the command line, the program's name first; sys.argv by default.

    Returns:
      The exit status: 0, or 2 for a mistake of the user's, told in one line on stderr.
    """
    return command.exit_status(
        lambda: _refit(sys.argv if argv is None else argv),
        interrupted="interrupted; nothing was written",
    )


def _refit(argv):
    parser = command.Parser(prog="python -m cutpaste_tf.refit", description=__doc__)
    parser.add_argument("--run", required=True, help="a finished run: WORKDIR/CATEGORY/seed_N")
    parser.add_argument(
        "--add",
        nargs="+",
        action="extend",
        default=[],
        help="further normal images, or folders to search for them",
    )
    parser.add_argument(
        "--drop",
        nargs="+",
        action="extend",
        default=[],
        help="images of the run to take out: names as in its normal_scores.csv, paths, or a .txt "
        "file with one on each line",
    )
    parser.add_argument(
        "--output", required=True, help="the folder of the run to write, which is not there yet"
    )
    arguments = parser.parse_args(argv[1:])
    with command.output_faults_as_user_errors(arguments.output):
        refit(
            arguments.run,
            arguments.output,
            arguments.add,
            arguments.drop,
            log=lambda text: print(text, flush=True),
        )
    return 0


def refit(
    run_dir: str | os.PathLike,
    output: str | os.PathLike,
    add: Sequence[str | os.PathLike] = (),
    drop: Sequence[str | os.PathLike] = (),
    *,
    log: Callable[[str], None] = lambda text: None,
) -> dict:
    """Writes a run of a finished one's network, and of other normal images.

    Args:
      run_dir: the folder of the finished run.
      output: the folder to write, which must not be there; it is when all is done.
      add: normal images, and folders to search for them.
      drop: what to take out: names as in normal_scores.csv, paths, or .txt files of them.
      log: takes lines of text.

    Returns:
      The results, as written to results.json.

    Raises:
      UserError: for what the user can mend; nothing is written then.
    """
    run_dir, output = pathlib.Path(run_dir), pathlib.Path(output)
    if not add and not drop:
        raise UserError("nothing to add or drop; give --add, --drop or both")
    config, before = Config.load(run_dir), artifacts.read_results(run_dir)
    _check_output(run_dir, output)
    if add and config.dataset not in ("folder", "mvtec_ad"):
        raise UserError(f"--add: the images of --dataset={config.dataset} are no files")
    if config.separate_locations and config.patch_size:
        raise UserError(
            f"{run_dir}: has a density for each patch of an image, whose statistics would take "
            "gigabytes and are not kept; train it again with the images of now"
        )
    artifacts.check_refit_files(run_dir)
    known = Normals.load(run_dir / artifacts.EMBEDDINGS)
    statistics = {}
    if (run_dir / artifacts.STATISTICS).is_file():
        statistics = normals.load_arrays(run_dir / artifacts.STATISTICS)
    dropped, contents = _dropped(known, drop, run_dir)
    stay = known.subset(np.setdiff1d(np.arange(len(known)), dropped))
    if not len(stay):
        raise UserError("--drop: leaves none of the run's images; train with the others instead")
    paths = _found(add)
    _check_new(known, paths)

    command.prepare_libraries()
    from cutpaste_tf.data import pipeline
    from cutpaste_tf.detector import Detector
    from cutpaste_tf.run import results

    # The threshold stays that of the run's rate.
    rate = before.get("false_positive_rate", config.false_positive_rate)
    config = dataclasses.replace(config, false_positive_rate=rate)
    detector = Detector.load(run_dir)
    split = normal(paths, paths)
    images = pipeline.prepare(split, detector.preparation)
    new = Normals.of(split, images.seen, paths)
    copies = int(np.isin(new.sha256, known.sha256).sum())
    if copies:
        log(f"{copies} of the {len(new)} images to add are copies of ones that the run has")
    sums = [*stay.sha256, *new.sha256]
    seen = np.concatenate([stay.seen, new.seen]) if len(new) else stay.seen
    if warning := results.check_contents(config, seen, sums):
        log(warning)
    gone = normal([], [])
    if statistics and len(dropped):
        gone = _contents(known.subset(dropped), contents, config)
    gone = pipeline.prepare(gone, detector.preparation)
    above = {}
    if len(new) and before["threshold"] is not None:
        earlier = detector.evaluate(images, maps=False).scores
        above = {"before": float(np.mean(earlier > before["threshold"]))}
    began = time.perf_counter()
    made = detector.refit(stay, statistics, new, images, gone)
    log(
        f"{len(known)} normal images, {len(new)} added, {len(dropped)} dropped: {len(sums)} now; "
        f"fitted in {time.perf_counter() - began:.1f} s"
    )

    test, note = _test_split(config, run_dir)
    test_images = pipeline.prepare(test, detector.preparation)
    found = detector.evaluate(test_images)
    scores = made.scores if rate else np.zeros([0])
    collected = {name: before[name] for name in _OF_THE_TRAINING if name in before}
    collected |= {"num_train": len(sums)}
    collected |= _measure(config, (test, test_images), found, made.normals, scores)
    if above and collected["threshold"] is not None:
        above["after"] = float(np.mean(scores[len(stay) :] > collected["threshold"]))
    collected["refit"] = {
        "from": os.path.abspath(run_dir),
        "from_sha256": {n: x for n, x in before["sha256"].items() if n != "settings"},
        "added": len(new),
        "dropped": len(dropped),
        "names_dropped": known.names[dropped].tolist(),
        "num_train": len(sums),
        "added_above_threshold": above or None,
        "note": note,
    }
    with _folder(output) as folder:
        files.write_scores(folder, test, found.scores)
        files.write_normal_scores(folder, made.normals.names.tolist(), scores)
        files.write_normals(folder, made.normals, made.statistics)
        _write(run_dir, folder, detector, config, collected)
    for line in _lines(before, collected):
        log(line)
    log(f"written to {output}")
    return collected


def _check_output(run_dir, output):
    if os.path.realpath(run_dir) == os.path.realpath(output):
        raise UserError(f"--output={output}: is the run itself, which stays as it is; name another")
    if os.path.lexists(output):
        raise UserError(f"--output={output}: is there already; name another, or remove it")


def _found(sources):
    """The absolute paths of images that --add names."""
    paths = []
    for text in map(str, sources):
        source = pathlib.Path(os.path.abspath(text))
        if not text or not source.exists():
            raise UserError(f"--add={text}: there is no such file or folder")
        if not source.is_dir():
            paths.append(str(source))
            continue
        inside = [str(path) for path in search.walk(source) if search.is_image(path)]
        if not inside:
            raise UserError(
                f"--add={text}: no images there; files that end in {search.endings()} are"
            )
        paths += inside
    return list(dict.fromkeys(paths))


def _check_new(known, paths):
    """Refuses images that were added before, which would count twice."""
    earlier = {*known.paths.tolist(), *known.names.tolist()}
    twice = next((path for path in paths if path in earlier), None)
    if twice is not None:
        raise UserError(f"--add: the run has {twice} already; leave it out")


def _dropped(known, drop, run_dir):
    """The indices of the images that --drop names, and paths that were given of them, by index."""
    by_name = {name: index for index, name in enumerate(known.names.tolist())}
    dropped, contents = set(), {}
    for text in _listed(map(str, drop)):
        absolute = os.path.abspath(text)
        index = by_name.get(text, by_name.get(absolute))
        if index is not None:
            dropped.add(index)
            continue
        alike = []
        if os.path.isfile(text):
            alike = np.flatnonzero(known.sha256 == fingerprint.digest(text).hex()).tolist()
        if not alike:
            table = run_dir / artifacts.NORMAL_SCORES
            raise UserError(f"--drop={text}: is none of the run's images; {table} lists them")
        dropped.update(alike)  # Copies of a bad image are as bad.
        contents |= dict.fromkeys(alike, absolute)
    dropped = np.array(sorted(dropped), np.int64)
    return dropped, [contents.get(index, "") for index in dropped.tolist()]


def _listed(drop):
    """Yields what --drop names, that of .txt files line by line."""
    for text in drop:
        if not text.lower().endswith(".txt"):
            yield text
            continue
        try:
            lines = pathlib.Path(text).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise UserError(f"--drop={text}: cannot be read ({reason})") from error
        yield from filter(None, map(str.strip, lines))


def _contents(known, paths, config):
    """The images that go, as they were when they came: maps forget them by their pixels."""
    given = "give the path of the image as it was"
    elsewhere = [index for index, path in enumerate(paths) if not path]
    try:
        found = known.subset(elsewhere).split(config).images
    except UserError as error:
        raise UserError(f"--drop: {error}; {given}") from error
    images = list(paths)
    for index, image in zip(elsewhere, found, strict=True):
        images[index] = image
    for name, image, digest in zip(known.names.tolist(), images, known.sha256, strict=True):
        if isinstance(image, str) and not os.path.isfile(image):
            raise UserError(f"--drop={name}: there is no such file now; {given}")
        if fingerprint.digest(image).hex() != digest:
            raise UserError(f"--drop={name}: its file has changed since; {given}")
    return normal(known.names.tolist(), images)


def _test_split(config, run_dir):
    """The run's test images; none, and why, where they are no longer what they were."""
    recorded = files.recorded_images(run_dir)
    none = Split([], [], np.zeros([0], np.int64), [], [])
    try:
        test = data.load(config).test
        now = fingerprint.of_split(test)
    except UserError as error:
        return none, f"not measured: {error}"
    if recorded is None or recorded["test"] != now:
        return none, "not measured: the test images are no longer those of the run"
    return test, None


def _measure(config, tested, found, known, normal_scores):
    """What results.json has of the test images and the threshold."""
    from cutpaste_tf.run import results

    test, images = tested
    features = known.embeddings.reshape(known.seen.size, known.embeddings.shape[-1])
    found = dataclasses.replace(found, normal_features=features)
    by_feature = {config.features: found}
    # The network before its training has no density of these images.
    untrained = None if config.steps else by_feature
    measured = results.measure(config, test, by_feature, untrained, images, normal_scores)
    peaks = known.peaks.ravel()
    measured["pixel_threshold"] = results.pixel_threshold(config.false_positive_rate, peaks)
    by_density = {} if config.patch_size else results.auroc_by_density(config, found, test.labels)
    return measured | ({"image_auroc_by_density": by_density} if by_density else {})


@contextlib.contextmanager
def _folder(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder beside `output`, which takes its name at the end of the block."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".refit-", dir=output.parent) as temporary:
        folder = pathlib.Path(temporary) / "run"
        folder.mkdir()
        yield folder
        _check_output(folder, output)  # It has taken a while.
        folder.rename(output)


def _write(run_dir, folder, detector, config, collected):
    """Writes what a run has besides, as `main` does, results.json last."""
    from cutpaste_tf import density as densities

    shutil.copytree(
        run_dir / "checkpoints", folder / "checkpoints", ignore=shutil.ignore_patterns("backup")
    )
    if (run_dir / artifacts.ROI).is_file():
        shutil.copyfile(run_dir / artifacts.ROI, folder / artifacts.ROI)
    settings = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
    # `main` is to know that this is no longer of the images of its training.
    settings["data"] = (settings.get("data") or {}) | {"refit": collected["refit"]["from"]}
    with replacing(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    densities.save(detector.density, folder / artifacts.DENSITY)
    if detector.map_density is not None:
        densities.save(detector.map_density, folder / artifacts.MAP_DENSITY)
    collected["sha256"] = artifacts.checksums(folder, config)
    collected["refit_sha256"] = artifacts.refit_checksums(folder)
    files.write_results(folder, collected)


def _lines(before, after):
    """What has changed, in lines of text."""
    note = after["refit"]["note"]
    if note:
        yield f"image AUROC {note}"
    elif after["image_auroc"] is not None:
        told = before.get("image_auroc")
        told = "" if told is None else f" (before {100 * told:.1f})"
        yield f"image AUROC {100 * after['image_auroc']:.1f}{told}"
    if after["threshold"] is not None:
        line = f"threshold {after['threshold']:.4g}"
        if before["threshold"] is not None:
            line += f" (before {before['threshold']:.4g})"
        above = after["refit"]["added_above_threshold"]
        if above:
            line += (
                f"; above it: {100 * above['after']:.0f}% of the added images "
                f"(before {100 * above['before']:.0f}%)"
            )
        yield line


if __name__ == "__main__":
    sys.exit(main())
