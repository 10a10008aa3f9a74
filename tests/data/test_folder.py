"""Folders in MVTec layout, sound and broken."""

import numpy as np
import pytest
from conftest import make_mvtec, pattern, write_image
from PIL import Image

from cutpaste_tf.data import folder, pipeline
from cutpaste_tf.errors import UserError


@pytest.fixture
def part(tmp_path):
    return make_mvtec(tmp_path) / "part"


def test_finds_images_labels_types_and_masks(part):
    category = folder.load(part)
    assert list(category.train.names) == [f"train/good/{i:03d}.png" for i in range(8)]
    assert not category.train.labels.any()
    test = category.test
    assert list(test.names) == [
        *(f"test/good/{i:03d}.png" for i in range(4)),
        *(f"test/hole/{i:03d}.png" for i in range(4)),
    ]
    assert test.labels.tolist() == [0] * 4 + [1] * 4
    assert list(test.defect_types) == ["good"] * 4 + ["hole"] * 4
    assert test.masks[:4] == [None] * 4
    assert [mask.rsplit("/", 1)[1] for mask in test.masks[4:]] == [
        f"{i:03d}_mask.png" for i in range(4)
    ]


def test_masks_are_optional(part):
    (part / "ground_truth" / "hole" / "001_mask.png").unlink()
    masks = folder.load(part).test.masks
    assert [mask is None for mask in masks] == [True] * 4 + [False, True, False, False]


def test_a_folder_of_good_images_only_is_enough(tmp_path):
    make_mvtec(tmp_path, train=3, good=0, bad=0)
    category = folder.load(tmp_path / "part")
    assert (len(category.train), len(category.test)) == (3, 0)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".bmp", ".PNG", ".JPG"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(40, 40), (51, 33)])
def test_formats_colours_and_sizes_are_read(tmp_path, suffix, mode, size):
    pixels = pattern(np.random.default_rng(1), 60)
    image = Image.fromarray(pixels).convert(mode).resize(size)
    file = tmp_path / "train" / "good" / f"image{suffix}"
    file.parent.mkdir(parents=True)
    image.save(file)
    split = folder.load(tmp_path).train
    read = pipeline.prepare(split, 32).read(np.array([0])).numpy()[0]
    with Image.open(file) as stored:
        expected = stored.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
    # PIL's antialiased bilinear filter is the one that TensorFlow follows; jpg decoders differ by a
    # few levels in their colours.
    tolerance = 6 if suffix.lower().startswith(".j") else 2
    assert np.abs(read.astype(int) - np.asarray(expected).astype(int)).max() <= tolerance


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "I;16"])
def test_unusual_pngs_are_read(tmp_path, mode):
    grey = pattern(np.random.default_rng(2), 32)[..., 0]
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(grey).convert(mode)
    file = tmp_path / "train" / "good" / "image.png"
    file.parent.mkdir(parents=True)
    image.save(file)
    read = pipeline.prepare(folder.load(tmp_path).train, 32).read(np.array([0])).numpy()[0]
    expected = grey if mode == "I;16" else np.asarray(image.convert("L"))
    assert np.abs(read[..., 0].astype(int) - expected).max() <= 1
    assert (read[..., 0] == read[..., 1]).all()


def test_hidden_and_other_files_are_passed_over(part):
    (part / "train" / "good" / ".DS_Store").write_bytes(b"x")
    (part / "train" / "good" / "Thumbs.db").write_bytes(b"x")
    (part / "train" / "good" / "notes.txt").write_text("x")
    assert len(folder.load(part).train) == 8


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="train/good: there is no such folder"):
        folder.load(tmp_path / "part")


def test_an_empty_folder_is_named(tmp_path):
    (tmp_path / "train" / "good").mkdir(parents=True)
    with pytest.raises(UserError, match="train/good: no images to train on"):
        folder.load(tmp_path)


@pytest.mark.parametrize("where", ["train/good", "test/good", "test/hole", "ground_truth/hole"])
@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_named(part, where, content):
    name = "000_mask.png" if where.startswith("ground_truth") else "000.png"
    (part / where / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{where}/{name}: not an image of a known format"):
        folder.load(part)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
@pytest.mark.parametrize("where", ["train/good", "test/hole"])
def test_a_truncated_image_is_named(part, suffix, where):
    pixels = np.random.default_rng(3).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    file = write_image(part / where / f"zz.{suffix}", pixels)
    file.write_bytes(file.read_bytes()[:20000])
    category = folder.load(part)
    split = category.train if where == "train/good" else category.test
    with pytest.raises(UserError, match=rf"{where}/zz.{suffix}: a damaged or truncated image"):
        pipeline.prepare(split, 32)


@pytest.mark.parametrize("kind", ["tif", "gif", "webp"])
def test_images_of_other_formats_are_read(part, kind):
    image = pattern(np.random.default_rng(4))
    write_image(part / "train" / "good" / f"zz.{kind}", image[..., 0])
    assert folder.load(part).train.names[-1] == f"train/good/zz.{kind}"


def test_a_format_behind_another_suffix_is_read(part):
    write_image(part / "train" / "good" / "zz.png", np.full([8, 8, 3], 9, np.uint8), format="TIFF")
    split = folder.load(part).train
    assert (pipeline.prepare(split, 8).stored.numpy()[-1] == 9).all()


def test_a_bmp_with_a_palette_is_read(part):
    image = Image.fromarray(pattern(np.random.default_rng(4))).quantize(16)
    image.save(part / "train" / "good" / "zz.bmp")
    expected = np.asarray(image.convert("RGB"))
    read = pipeline.prepare(folder.load(part).train, expected.shape[0]).stored.numpy()[-1]
    assert (read == expected).all()


def test_a_folders_categories_are_found(tmp_path):
    make_mvtec(tmp_path, "bolt", 1, 0, 0)
    make_mvtec(tmp_path, "anchor", 1, 0, 0)
    (tmp_path / "notes").mkdir()
    assert folder.categories(str(tmp_path)) == ("anchor", "bolt")
    assert folder.categories(str(tmp_path / "bolt")) == ("bolt",)
    assert folder.category_root(str(tmp_path), "bolt") == tmp_path / "bolt"
    assert folder.category_root(str(tmp_path / "bolt"), "bolt") == tmp_path / "bolt"
    with pytest.raises(UserError, match="no images to train on"):
        folder.categories(str(tmp_path / "notes"))
