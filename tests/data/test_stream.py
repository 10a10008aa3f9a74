"""Finding and reading new images."""

import itertools
import math
import os
import threading
import time

import numpy as np
import pytest
from conftest import pattern, write_image

from cutpaste_tf.data import decode, pipeline, stream
from cutpaste_tf.data.preparation import Preparation
from cutpaste_tf.data.split import normal_split
from cutpaste_tf.files import UserError

RNG = np.random.default_rng(0)


def apply(size):
    return Preparation((size, size)).apply


def test_folders_are_searched_in_order_and_files_taken_as_they_are(tmp_path):
    for name in (
        *("b/2.PNG", "b/1.tif", "a.jpg", "notes.txt", "out/1.png", "Thumbs.db"),
        *(".hidden.png", ".git/x.png", "__MACOSX/x.png", "@eaDir/x.png", "b/._1.tif"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    sources = [tmp_path, str(tmp_path / "notes.txt")]
    (tmp_path / "b" / "up").symlink_to(tmp_path)  # round and round
    (tmp_path / "link").symlink_to(tmp_path / "b")  # seen already
    found = [
        p.relative_to(tmp_path).as_posix() for p in stream.find(sources, tmp_path / "out", "x.csv")
    ]
    assert found == ["a.jpg", "b/1.tif", "b/2.PNG", "notes.txt"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "linked").symlink_to(tmp_path / "b")
    found = list(stream.find([elsewhere], tmp_path / "out", "x.csv"))
    assert [p.name for p in found if p.parent.name == "linked"] == ["1.tif", "2.PNG"]
    for source, message in (
        (tmp_path / "nowhere", "--add=.*nowhere: there is no such file or folder"),
        ("", "--add=: there is no such file or folder"),
        (tmp_path / "out" / "1.png", "lies in"),
    ):
        with pytest.raises(UserError, match=message):
            list(stream.find([source], tmp_path / "out", "x.csv", flag="add"))


def test_an_earlier_outputs_overlays_are_no_images(tmp_path):
    for name in ("1.png", "maps/2.png", "old/maps/3.png", "old/maps/deep/4.png", "old/x.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for source, names in (
        (tmp_path, ["1.png", "2.png"]),  # maps of a town, say
        (tmp_path / "old" / "maps", ["3.png", "4.png"]),  # as it was asked for
    ):
        paths = stream.find([source], tmp_path / "out" / "maps", "x.csv")
        assert [path.name for path in paths] == names


def test_batches_keep_the_order_and_name_what_failed(tmp_path):
    paths = [write_image(tmp_path / f"{i}.png", pattern(RNG, 20 + i)) for i in range(7)]
    paths[2].write_bytes(b"")
    paths[5] = write_image(tmp_path / os.fsdecode(b"\xff.png"), pattern(RNG))
    paths[6].unlink()
    found = list(stream.batches(paths, apply(32), 3))
    assert [[one.path for one in batch] for batch in found] == [paths[:3], paths[3:6], paths[6:]]
    errors = [one.error for batch in found for one in batch]
    assert errors == [
        *(None, None, "not an image of a known format", None, None),
        *("its name is not UTF-8; rename it", "No such file or directory"),
    ]
    # What training reads is read the same.
    good = [paths[i] for i in (0, 1, 3, 4)]
    expected = pipeline.prepare(normal_split(good, [str(p) for p in good]), 32).stored.numpy()
    one_after_another = [one for batch in found for one in batch if not one.error]
    np.testing.assert_array_equal(np.stack([one.prepared for one in one_after_another]), expected)
    assert [one.size for one in one_after_another] == [(20 + i,) * 2 for i in (0, 1, 3, 4)]
    assert list(stream.batches([], apply(32), 4)) == []


def test_no_more_is_read_than_two_batches_ahead(tmp_path):
    path = write_image(tmp_path / "x.png", pattern(RNG))
    taken = itertools.count()

    def endless():
        while True:
            next(taken)
            yield path

    others = set(threading.enumerate())
    batches = stream.batches(endless(), apply(32), 4)
    for _ in range(5):
        assert len(next(batches)) == 4
    assert next(taken) <= 4 * (5 + 1) + 1
    batches.close()
    for thread in set(threading.enumerate()) - others:
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("keep", [False, True])
def test_images_in_memory_are_few_and_large_ones_are_alone(tmp_path, monkeypatch, keep):
    monkeypatch.setattr(stream, "_PIXELS", 2 * 40 * 40)
    sizes = [20, 41, 120, 120, 120, 10, 10, 39, 40, 120, 20]
    paths = [write_image(tmp_path / f"{i}.png", pattern(RNG, s)) for i, s in enumerate(sizes)]
    (tmp_path / "broken.png").write_bytes(paths[0].read_bytes()[:60])
    paths.insert(3, tmp_path / "broken.png")
    read, held, most = decode.read, [], []

    def watched(path, bits):
        pixels = math.prod(decode.size(path))
        held.append(pixels)
        most.append(sum(held) - max(held))
        time.sleep(0.01)
        try:
            return read(path, bits)
        finally:
            if not keep:
                held.remove(pixels)

    monkeypatch.setattr(decode, "read", watched)
    found = []
    for batch in stream.batches(paths, apply(32), 4, workers=4, keep=keep):
        found += [one.path for one in batch]
        for one in batch:
            assert (one.image is None) == (not keep or one.error is not None)
            if keep and one.size:
                held.remove(one.size[0] * one.size[1])
    assert found == paths
    assert max(most) <= 2 * 40 * 40


def test_work_is_done_in_order_until_a_fault():
    def work(number):
        if number == 5:
            raise KeyError(number)
        return -number

    assert list(stream.in_order(work, range(5))) == [0, -1, -2, -3, -4]
    results = stream.in_order(work, range(9))
    assert [next(results) for _ in range(5)] == [0, -1, -2, -3, -4]
    with pytest.raises(KeyError):
        next(results)
    assert list(stream.in_order(work, [])) == []
