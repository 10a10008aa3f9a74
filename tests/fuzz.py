"""Feeds damaged files to whatever reads a user's: python tests/fuzz.py SECONDS [TARGET ...]

Each example must end in a value or a UserError, within seconds and a gigabyte. The seeds are 0, 1,
2 and so on; a failure prints the target, its seed and the smallest example.
"""

import contextlib
import io
import itertools
import json
import math
import os
import pathlib
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from functools import partial

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from cutpaste_tf import files, run_folder
from cutpaste_tf import threshold as thresholds
from cutpaste_tf.config import Config
from cutpaste_tf.data import decode, folder, stream
from cutpaste_tf.data.split import Category, Split, normal_split
from cutpaste_tf.files import UserError, read_lines
from cutpaste_tf.predict import exported
from cutpaste_tf.predict.exported import Description
from cutpaste_tf.threshold import Threshold

GIGABYTE = 2**30
LONGEST = 20  # seconds of an example
ROOT = pathlib.Path(tempfile.mkdtemp(prefix="cutpaste_tf_fuzz_"))


def images():
    """Bytes of small images in all formats that are written here."""
    rng = np.random.default_rng(0)
    colour, grey = rng.integers(0, 256, (9, 7, 3), np.uint8), rng.integers(0, 256, (9, 7), np.uint8)
    pictures = [Image.fromarray(x) for x in (colour, grey, grey.astype(np.uint16))]
    for picture, kind in itertools.product(pictures, sorted(decode.FORMATS)):
        with contextlib.suppress(OSError, KeyError):
            picture.save(file := io.BytesIO(), kind)
            yield file.getvalue()


IMAGES = list(images())
CONFIG = Config(dataset="folder", data_dir="x", category="part", workdir=str(ROOT), roi="auto")


def npz():
    np.savez(file := io.BytesIO(), kind=np.array("gde"), mean=np.ones(3), precision=np.eye(3))
    return file.getvalue()


def texts():
    """The text files of a run, by their names."""
    run_dir = ROOT / "written"
    run_dir.mkdir()
    run_folder.write_settings(run_dir, CONFIG, Category(normal_split([], []), normal_split([], [])))
    split = Split(["a", "b"], [None] * 2, ["good", "x"], [None] * 2)
    run_folder.write_scores(run_dir, split, np.array([1.0, 2.0]))
    run_folder.write_normal_scores(run_dir, ["c", "d", "e"], np.array([1.0, 3.0, 2.0]))
    results = {"threshold": 2.0, "false_positive_rate": 0.1, "num_normal_scores": 3}
    results |= {"pixel_threshold": None, "bit_depth": 16, "sha256": {}, "collapse": None}
    results |= {"image_auroc_by_density": {"gde": 0.5}, "device": "CPU"}
    run_folder.write_results(run_dir, results)
    return {path.name: path.read_bytes() for path in run_dir.iterdir()}


TEXTS = texts()
DESCRIPTION = Description(
    CONFIG, 16, Threshold(4.0, 0.1, 5), np.arange(5.0), level=None, pixel_threshold=7.0
)

NUMBERS = [math.nan, math.inf, -1, 0, 1e308, 10**400, 2**63, True, 16]
VALUES = st.recursive(
    st.none() | st.sampled_from(NUMBERS) | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@st.composite
def damaged(draw, files):
    """The bytes of a file with some of them replaced, cut off or added."""
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(0, 4))):
        first = draw(st.integers(0, len(data)))
        more = draw(st.binary(max_size=8) | st.sampled_from([b"\xff" * 4, b"\0" * 4, b"9" * 9]))
        data[first : first + draw(st.sampled_from([0, 1, len(more), 10**6]))] = more
    return bytes(data)


@st.composite
def altered(draw, values):
    """JSON with other values in some places."""
    result = json.loads(json.dumps(values))
    for _ in range(draw(st.integers(1, 3))):
        place = result
        while isinstance(place, (dict, list)) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            if not isinstance(place[key], (dict, list)) or draw(st.booleans()):
                place[key] = draw(VALUES)
                break
            place = place[key]
    return json.dumps(result)


def spoiled(name, text):
    """A file's name and its damaged text; that of JSON may have other values."""
    texts = damaged([text])
    if name.endswith(".json"):
        texts |= altered(json.loads(text)).map(str.encode)
    return st.tuples(st.just(name), texts)


def read_image(data):
    decode.decode(data, "x", 12)


def read_metadata(name_and_text):
    text = name_and_text[1].decode("utf-8", "replace")
    read = Description.read({exported.KEY: text}, "--model=x")
    str(thresholds.choose(read.threshold, read.normal_scores, "x", None, 0.1))


def read_npz(data):
    path = ROOT / "density.npz"
    path.write_bytes(data)
    files.read_npz(path)


def read_texts(name_and_text):
    name, data = name_and_text
    path = ROOT / "run" / name
    path.parent.mkdir(exist_ok=True)
    for other, text in TEXTS.items():
        path.with_name(other).write_bytes(text)
    path.write_bytes(data)
    for read in (
        run_folder.checked,
        lambda run_dir: str(run_folder.choose_threshold(run_dir)),
        lambda run_dir: run_folder.choose_threshold(run_dir, None, 0.1),
        lambda run_dir: run_folder.ensemble_scores([run_dir, run_dir]),
        lambda run_dir: run_folder.load_images(CONFIG, run_dir),
        lambda run_dir: read_lines(run_dir / name, "drop"),
    ):
        with contextlib.suppress(UserError):
            read(path.parent)


def read_folder(entries):
    root = ROOT / "folder"
    shutil.rmtree(root, ignore_errors=True)
    for kind in ("train/good", "test/good", "test/a", "ground_truth/a"):
        (root / kind).mkdir(parents=True)
    for place, name, kind in entries:
        path = root / place / name
        with contextlib.suppress(OSError, ValueError):
            if os.path.lexists(path):  # A pipe would wait for its reader.
                continue
            if isinstance(kind, bytes):
                path.write_bytes(kind)
            else:
                {"folder": os.mkdir, "pipe": os.mkfifo}.get(kind, partial(os.symlink, kind))(path)
    for read in (folder.load, lambda root: [str(x) for x in stream.find([root], root / "maps")]):
        with contextlib.suppress(UserError):
            read(root)


NAMES = st.sampled_from(["0.png", "0_mask.png", "0_MASK.PNG", "A.png", "a.PNG", "\udcff.png", "x"])
PLACES = st.sampled_from(["", "train", "train/good", "test", "test/a", "ground_truth/a", "test/A"])
KINDS = st.sampled_from(["folder", "pipe", ".", "..", "nowhere", "0.png", b"", *IMAGES[:2]])
TARGETS = {
    "decode": (read_image, damaged(IMAGES) | st.binary(max_size=64)),
    "folder": (read_folder, st.lists(st.tuples(PLACES, NAMES, KINDS), max_size=8)),
    "metadata": (read_metadata, spoiled("x.json", DESCRIPTION.to_json().encode())),
    "npz": (read_npz, damaged([npz()])),
    "texts": (read_texts, st.one_of(spoiled(*named) for named in TEXTS.items())),
}


def check(name, number, examples):
    """Runs a target on the examples of a seed."""
    work, strategy = TARGETS[name]

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def one(example):
        signal.alarm(LONGEST)
        try:
            work(example)
        except UserError:
            pass
        finally:
            signal.alarm(0)

    try:
        one()
    except BaseException:
        print(f"{name}, seed {number}:", file=sys.stderr)
        raise


class Hang(BaseException):
    """An example takes too long; no `except Exception` takes it for a damaged file."""


def hang(*arguments):
    raise Hang


def main(seconds, names):
    signal.signal(signal.SIGALRM, hang)
    warnings.simplefilter("ignore")
    now = pathlib.Path("/proc/self/statm")
    used = int(now.read_text().split()[0]) * resource.getpagesize() if now.exists() else GIGABYTE
    resource.setrlimit(resource.RLIMIT_AS, (used + GIGABYTE, resource.RLIM_INFINITY))
    end, counts = time.monotonic() + seconds, dict.fromkeys(names, 0)
    examples = 200 if seconds else 20
    for number in itertools.count():
        for name in names:
            check(name, number, examples)
            counts[name] += examples
        if time.monotonic() >= end:
            break
    # Not getrusage's: that has what the process had before it became this program, too.
    status = pathlib.Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    print(f"{counts}, seeds 0 to {number}, {peak / 2**20:.0f} MiB")
    assert peak < GIGABYTE, peak


if __name__ == "__main__":
    try:
        main(float(sys.argv[1]), sys.argv[2:] or list(TARGETS))
    finally:
        shutil.rmtree(ROOT, ignore_errors=True)
