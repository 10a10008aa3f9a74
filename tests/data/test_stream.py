"""Finding and reading new images."""

import io
import itertools
import os
import pathlib
import threading
import time

import numpy as np
import pytest
from conftest import pattern, write_image
from PIL import Image

from cutpaste_tf.data import decode, pipeline, stream
from cutpaste_tf.data.preparation import Preparation
from cutpaste_tf.data.split import normal
from cutpaste_tf.files import UserError

RNG = np.random.default_rng(0)


def apply(size):
    return Preparation((size, size)).apply


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "gif", "webp", "ppm", "jpeg2000"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_formats_without_loss_give_the_pixels(kind, mode):
    image = Image.fromarray(pattern(RNG)).convert(mode)
    if kind == "gif":
        image = image.convert("L")
    options = {"webp": {"lossless": True}, "jpeg2000": {"irreversible": False}}.get(kind, {})
    found = decode.decode(encoded(image, kind, **options), "x")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "CMYK"])
def test_other_modes_become_colours(mode):
    image = Image.fromarray(pattern(RNG)).convert("RGB")
    image = image.convert("L").convert(mode) if mode in ("LA", "1") else image.convert(mode)
    found = decode.decode(encoded(image, "tiff"), "x")
    expected = image.convert("L").convert("RGB") if mode == "LA" else image.convert("RGB")
    np.testing.assert_array_equal(found, np.asarray(expected))


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bits_lose_the_lower_eight(kind):
    values = RNG.integers(0, 2**16, (5, 7)).astype(np.uint16)
    found = decode.decode(encoded(Image.fromarray(values), kind), "x")
    expected = np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    # libpng rounds where it reduces to 8 bits.
    np.testing.assert_allclose(found.astype(int), expected, atol=1 if kind == "png" else 0)


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp"])
def test_what_training_reads_is_read_the_same(kind, tmp_path):
    path = tmp_path / f"x.{kind}"
    path.write_bytes(encoded(Image.fromarray(pattern(RNG, 77)), kind))
    trained = pipeline.prepare(normal(["x"], [str(path)]), 48).stored.numpy()
    ((found,),) = stream.batches([path], apply(48), 4)
    assert (found.image, found.size, found.error) == (None, (77, 77), None)
    np.testing.assert_array_equal(found.prepared, trained)


def test_broken_files_are_named():
    png = encoded(Image.fromarray(pattern(RNG)), "png")
    deep = encoded(Image.fromarray(RNG.normal(size=(4, 4)).astype(np.float32)), "tiff")
    for contents, message in (
        (b"", "not an image"),
        (b"hello", "not an image"),
        (png[: len(png) // 2], "damaged or truncated"),
        (encoded(Image.fromarray(pattern(RNG)), "tiff")[:300], "damaged|not an image"),
        (deep, "more than 16 bits"),
    ):
        with pytest.raises(UserError, match=f"part7: .*({message})"):
            decode.decode(contents, "part7")
    with pytest.raises(UserError, match="No such file"):
        decode.read("/nowhere/x.png")


def test_folders_are_searched_in_order_and_files_taken_as_they_are(tmp_path):
    for name in (
        "b/2.PNG",
        "b/1.tif",
        "a.jpg",
        ".hidden.png",
        "notes.txt",
        ".git/x.png",
        "__MACOSX/x.png",
        "@eaDir/x.png",
        "b/._1.tif",
        "Thumbs.db",
        "out/1.png",
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
    with pytest.raises(UserError, match="nowhere: there is no such file or folder"):
        list(stream.find([tmp_path / "nowhere"], tmp_path, "x.csv"))
    with pytest.raises(UserError, match="is where overlays are written to"):
        list(stream.find([tmp_path / "out" / "1.png"], tmp_path / "out", "x.csv"))


def test_an_earlier_outputs_overlays_are_no_images(tmp_path):
    for name in ("1.png", "maps/2.png", "old/maps/3.png", "old/maps/deep/4.png", "old/x.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def find(source):
        found = stream.find([source], tmp_path / "out" / "maps", "x.csv")
        return [path.name for path in found]

    assert find(tmp_path) == ["1.png", "2.png"]  # maps of a town, say
    assert find(tmp_path / "old" / "maps") == ["3.png", "4.png"]  # as it was asked for


def test_batches_keep_the_order_and_name_what_failed(tmp_path):
    paths = [write_image(tmp_path / f"{i}.png", pattern(RNG, 20 + i)) for i in range(7)]
    paths[2].write_bytes(b"")
    paths[6].unlink()
    found = list(stream.batches(paths, apply(32), 3))
    assert [[one.path for one in batch] for batch in found] == [paths[:3], paths[3:6], paths[6:]]
    broken = [[one.error is not None for one in batch] for batch in found]
    assert broken == [[False, False, True], [False] * 3, [True]]
    assert "2.png" not in found[0][2].error
    good = [paths[i] for i in (0, 1, 3, 4, 5)]
    expected = pipeline.prepare(normal(good, [str(p) for p in good]), 32).stored.numpy()
    np.testing.assert_array_equal(
        np.concatenate([one.prepared for b in found for one in b if not one.error]), expected
    )


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


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_no_format_that_starts_other_programs_and_no_size_without_end(monkeypatch):
    called = []
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: called.append(a))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    with pytest.raises(UserError, match="not an image of a known format"):
        decode.decode(script, "x.bmp")
    assert not called
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for kind in ("png", "jpeg", "tiff"):
        with pytest.raises(UserError, match="too large an image"):
            decode.decode(encoded(Image.fromarray(pattern(RNG, 15)), kind), "x")
        assert decode.decode(encoded(Image.fromarray(pattern(RNG, 14)), kind), "x").shape[0] == 14


@pytest.mark.parametrize("keep", [False, True])
def test_images_in_memory_are_few_and_large_ones_are_alone(tmp_path, monkeypatch, keep):
    monkeypatch.setattr(stream, "_PIXELS", 2 * 40 * 40)
    sizes = [20, 41, 120, 120, 120, 10, 10, 39, 40, 120, 20]
    paths = [write_image(tmp_path / f"{i}.png", pattern(RNG, s)) for i, s in enumerate(sizes)]
    (tmp_path / "broken.png").write_bytes(paths[0].read_bytes()[:60])
    paths.insert(3, tmp_path / "broken.png")
    read, held, most = decode.decode, [], []

    def watched(data, name, bits):
        pixels = decode.count_pixels(data)
        held.append(pixels)
        most.append(sum(held) - max(held))
        time.sleep(0.01)
        try:
            return read(data, name, bits)
        finally:
            if not keep:
                held.remove(pixels)

    monkeypatch.setattr(decode, "decode", watched)
    found = []
    for batch in stream.batches(paths, apply(32), 4, workers=4, keep=keep):
        found += [one.path for one in batch]
        for one in batch:
            assert (one.image is None) == (not keep or one.error is not None)
            if keep and one.size:
                held.remove(one.size[0] * one.size[1])
    assert found == paths
    assert max(most) <= 2 * 40 * 40


def test_a_fault_while_others_wait_for_memory_is_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "_PIXELS", 10)
    paths = [write_image(tmp_path / f"{i}.png", pattern(RNG, 20)) for i in range(9)]

    def fail(image):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        next(stream.batches(paths, fail, 4, workers=4))


def test_a_name_that_is_not_utf8_is_an_error(tmp_path):
    path = write_image(tmp_path / os.fsdecode(b"\xff.png"), pattern(RNG))
    ((found,),) = stream.batches([path], apply(32), 4)
    assert found.error == "its name is not UTF-8; rename it"


def test_no_files_no_batches():
    assert list(stream.batches([], apply(32), 4)) == []
    assert pathlib.Path("x.heic").suffix in decode.SUFFIXES
