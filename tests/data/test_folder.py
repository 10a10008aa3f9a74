"""Folders in MVTec layout, sound and broken."""

import numpy as np
import pytest
from conftest import make_mvtec, pattern, write_image
from PIL import Image

from cutpaste_tf.data import folder, pipeline
from cutpaste_tf.files import UserError


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


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="train/good: there is no such folder"):
        folder.load(tmp_path / "part")


def test_an_empty_folder_is_named(tmp_path):
    (tmp_path / "train" / "good").mkdir(parents=True)
    with pytest.raises(UserError, match="train/good: no images to train on"):
        folder.load(tmp_path)


def part_of(category, where):
    return category.train if where == "train/good" else category.test


@pytest.mark.parametrize("where", ["train/good", "test/good", "test/hole", "ground_truth/hole"])
@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_named(part, where, content):
    name = "000_mask.png" if where.startswith("ground_truth") else "000.png"
    (part / where / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{where}/{name}: not an image of a known format"):
        pipeline.prepare(part_of(folder.load(part), where), 32)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
@pytest.mark.parametrize("where", ["train/good", "test/hole"])
def test_a_truncated_image_is_named(part, suffix, where):
    pixels = np.random.default_rng(3).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    file = write_image(part / where / f"zz.{suffix}", pixels)
    file.write_bytes(file.read_bytes()[:20000])
    with pytest.raises(UserError, match=rf"{where}/zz.{suffix}: a damaged or truncated image"):
        pipeline.prepare(part_of(folder.load(part), where), 32)


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


HIDDEN = (".ipynb_checkpoints", ".Trash-1000", "__MACOSX", "@eaDir", "lost+found")


def test_what_is_hidden_is_no_data(tmp_path):
    make_mvtec(tmp_path)
    before = folder.load(tmp_path / "part")
    root = tmp_path / "part"
    for name in HIDDEN:
        make_mvtec(tmp_path, name, 1, 1, 1)  # no category
        for where in ("test", "train", "train/good", "test/hole", "ground_truth", "ground_truth/x"):
            write_image(root / where / name / "x.png", pattern(np.random.default_rng(0)))
    for where in ("train/good", "test/good", "test/hole", "ground_truth/hole", "test", "train"):
        for name in (".DS_Store", "Thumbs.db", "._000.png", ".x.png", "desktop.ini"):
            (root / where / name).write_bytes(b"x")
    assert folder.categories(str(tmp_path)) == ("part",)
    found = folder.load(root)
    for one, other in ((before.train, found.train), (before.test, found.test)):
        assert other.names == one.names
        assert other.masks == one.masks
        assert other.defect_types == one.defect_types
    assert found.notes == ()


def test_a_data_folder_may_itself_be_hidden(tmp_path):
    make_mvtec(tmp_path / ".data")
    assert folder.categories(str(tmp_path / ".data")) == ("part",)
    assert len(folder.load(tmp_path / ".data" / "part").train) == 8


def test_files_that_are_no_images_are_passed_over_and_told_where_nothing_else_is(part):
    (part / "train" / "good" / "notes.txt").write_text("x")
    (part / "test" / "readme.md").write_text("x")
    (part / "test" / "dent").mkdir()
    category = folder.load(part)
    assert (len(category.train), len(category.test), category.notes) == (8, 8, ())
    (part / "test" / "dent" / "000.psd").write_text("x")
    (note,) = folder.load(part).notes
    assert note.startswith("test/dent holds 1 files and no image; files that end in .png, .jpg")


def test_folders_are_known_in_upper_and_lower_case(part):
    expected = folder.load(part)
    for old, new in (
        ("train/good", "train/Good"),
        ("test/good", "test/GOOD"),
        ("train", "Train"),
        ("test", "Test"),
        ("ground_truth/hole", "ground_truth/Hole"),
        ("ground_truth", "Ground_Truth"),
    ):
        (part / old).rename(part / new)
    assert folder.categories(str(part.parent)) == ("part",)
    found = folder.load(part)
    assert found.train.names[0] == "Train/Good/000.png"
    assert found.test.labels.tolist() == expected.test.labels.tolist()
    assert found.test.defect_types == expected.test.defect_types
    assert [bool(mask) for mask in found.test.masks] == [False] * 4 + [True] * 4
    assert found.notes == ()
    # Both are meant.
    write_image(part / "Test" / "good" / "9.png", pattern(np.random.default_rng(0)))
    write_image(part / "Train" / "good" / "9.png", pattern(np.random.default_rng(0)))
    found = folder.load(part)
    assert found.train.names[-1] == "Train/good/9.png"
    assert [kind for kind in found.test.defect_types if kind != "hole"] == ["good"] * 5


def test_images_in_further_folders_are_taken(part):
    image = pattern(np.random.default_rng(0))
    for name in ("train/good/b/1.png", "train/good/a/1.png", "test/good/a/1.png"):
        write_image(part / name, image)
    write_image(part / "test" / "hole" / "deep" / "x" / "1.png", image)
    write_image(part / "ground_truth" / "hole" / "deep" / "x" / "1_mask.png", image)
    category = folder.load(part)
    assert category.train.names[-2:] == ["train/good/a/1.png", "train/good/b/1.png"]
    test = category.test
    assert test.names[4] == "test/good/a/1.png"
    assert (test.labels[4], test.defect_types[4]) == (0, "good")
    assert test.names[-1] == "test/hole/deep/x/1.png"
    assert (test.labels[-1], test.defect_types[-1]) == (1, "hole")
    assert test.masks[-1] == str(part / "ground_truth" / "hole" / "deep" / "x" / "1_mask.png")
    assert category.notes == ()


def test_images_of_which_it_is_not_known_what_they_show_are_named(part):
    image = write_image(part / "test" / "1.png", pattern(np.random.default_rng(0)))
    with pytest.raises(UserError, match=r"test/1.png: .* put it into .*test/good, or .*test/TYPE"):
        folder.load(part)
    image.rename(part / "train" / "1.png")
    with pytest.raises(UserError, match=r"train/1.png: .* belong in .*train/good"):
        folder.load(part)
    # Without train/good too; and a category beside others is not passed over.
    (part / "train" / "good").rename(part / "train" / "bad")
    make_mvtec(part.parent, "other", 1, 0, 0)
    assert folder.categories(str(part.parent)) == ("other", "part")
    assert folder.category_root(str(part), "part") == part
    with pytest.raises(UserError, match=r"train/1.png: .* belong in .*train/good"):
        folder.load(part)


def test_images_that_are_not_trained_on_are_told(part):
    write_image(part / "train" / "bad" / "1.png", pattern(np.random.default_rng(0)))
    category = folder.load(part)
    assert len(category.train) == 8
    assert category.notes == ("1 images in train/bad are left out; train/good is read",)


def test_a_folder_that_may_not_be_read_is_named(part, monkeypatch):
    def refused(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.iterdir", refused)
    with pytest.raises(UserError, match=r"part: may not be read \(Permission denied\)"):
        folder.load(part)


@pytest.mark.parametrize(
    "name",
    ["000_mask.tif", "000.png", "000_gt.png", "000_GT.bmp", "000_label.PNG", "000_mask.TIFF"],
)
def test_the_usual_names_of_masks_are_known(part, name):
    mask = part / "ground_truth" / "hole" / "000_mask.png"
    pixels = np.asarray(Image.open(mask))
    mask.unlink()
    write_image(mask.with_name(name), pixels)
    category = folder.load(part)
    assert category.test.masks[4] == str(mask.with_name(name))
    assert category.notes == ()


def test_of_two_masks_mvtecs_is_taken(part):
    masks = part / "ground_truth" / "hole"
    write_image(masks / "000.png", np.zeros([40, 40], np.uint8))
    category = folder.load(part)
    assert category.test.masks[4] == str(masks / "000_mask.png")
    (note,) = category.notes
    assert note.startswith("1 masks belong to no image, such as ground_truth/hole/000.png; ")


def test_missing_masks_are_told(part):
    for number in (1, 2):
        (part / "ground_truth" / "hole" / f"00{number}_mask.png").unlink()
    expected = "2 of 4 anomalous images have no mask, such as test/hole/001.png"
    assert folder.load(part).notes == (expected,)
    (part / "ground_truth").rename(part / "elsewhere")
    (note,) = folder.load(part).notes  # None are asked for.
    assert note == "2 images in elsewhere/ are left out; train/ and test/ are read"


def test_masks_without_an_image_are_told(part):
    pixels = np.full([40, 40], 255, np.uint8)
    write_image(part / "ground_truth" / "hole" / "999_mask.png", pixels)
    write_image(part / "ground_truth" / "000_mask.png", pixels)
    write_image(part / "ground_truth" / "good" / "000_mask.png", 0 * pixels)
    (note,) = folder.load(part).notes
    assert note.startswith("2 masks belong to no image, such as ground_truth/000_mask.png; ")


def test_masks_that_mark_nothing_are_told_and_do_not_count(part):
    for number in (0, 3):
        write_image(part / f"ground_truth/hole/00{number}_mask.png", np.zeros([40, 40], np.uint8))
    category = folder.load(part)
    assert [mask is None for mask in category.test.masks[4:]] == [True, False, False, True]
    assert category.notes == (
        "2 masks mark nothing, such as ground_truth/hole/000_mask.png; their images count as "
        "without a mask",
    )


@pytest.mark.parametrize(
    ("size", "alike"), [((40, 40), True), ((20, 20), True), ((13, 14), True), ((40, 30), False)]
)
def test_masks_of_another_shape_than_their_image_are_told(part, size, alike):
    write_image(part / "ground_truth" / "hole" / "001_mask.png", np.ones(size, np.uint8))
    notes = folder.load(part).notes
    assert len(notes) == (not alike)
    if notes:
        assert notes[0].startswith("1 masks are not of their images' shape, such as ground_truth/")


def test_a_turned_image_and_its_mask_are_of_one_shape(part):
    # As viewers show it, the image is as high as the mask.
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(part / "test" / "hole" / "000.png", np.zeros([40, 80, 3], np.uint8), exif=exif)
    write_image(part / "ground_truth" / "hole" / "000_mask.png", np.ones([80, 40], np.uint8))
    assert folder.load(part).notes == ()


def test_a_damaged_mask_is_named_before_any_training(part):
    noise = np.random.default_rng(3).integers(0, 256, (200, 200), dtype=np.uint8)
    mask = write_image(part / "ground_truth" / "hole" / "000_mask.png", noise)
    mask.write_bytes(mask.read_bytes()[:9000])
    with pytest.raises(UserError, match="000_mask.png: a damaged or truncated image"):
        folder.load(part)


def test_types_and_masks_that_differ_in_case_keep_their_own(part):
    for kind in ("Scratch", "scratch"):
        write_image(part / "test" / kind / "1.png", np.zeros([40, 40, 3], np.uint8))
        write_image(part / "ground_truth" / kind / "1_mask.png", np.ones([40, 40], np.uint8))
    mask = part / "ground_truth" / "hole" / "000_mask.png"
    mask.rename(mask.with_name("000_MASK.PNG"))
    test = folder.load(part).test
    found = {
        name: mask and mask.split("ground_truth/")[1]
        for name, mask in zip(test.names, test.masks, strict=True)
    }
    assert found["test/Scratch/1.png"] == "Scratch/1_mask.png"
    assert found["test/scratch/1.png"] == "scratch/1_mask.png"
    assert found["test/hole/000.png"] == "hole/000_MASK.PNG"
    # A mask that belongs to another image by its exact name is not taken.
    (part / "ground_truth" / "Scratch" / "1_mask.png").unlink()
    test = folder.load(part).test
    assert test.masks[test.names.index("test/Scratch/1.png")] is None


def test_what_lies_beside_train_and_test_is_one_line(part):
    for name in ("test_public/good/1.png", "test_private/2.png", "validation/good/3.png", "4.png"):
        write_image(part / name, np.zeros([40, 40, 3], np.uint8))
    assert folder.load(part).notes == (
        "4 images in test_private/, test_public/, validation/, 4.png are left out; train/ and "
        "test/ are read",
    )
