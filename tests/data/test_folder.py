"""Folders in MVTec layout, sound and broken."""

import numpy as np
import pytest
from conftest import make_mvtec, pattern, write_image
from PIL import Image

from cutpaste_tf.data import folder, pipeline
from cutpaste_tf.files import UserError

IMAGE = pattern(np.random.default_rng(0))
BLACK, WHITE = np.zeros([40, 40], np.uint8), np.full([40, 40], 255, np.uint8)


@pytest.fixture
def part(tmp_path):
    return make_mvtec(tmp_path) / "part"


def masks_by_name(split):
    """The masks' paths below ground_truth/, by the images' paths below test/."""
    return {
        name.removeprefix("test/"): mask and mask.partition("ground_truth/")[2]
        for name, mask in zip(split.names, split.masks, strict=True)
    }


def test_finds_images_labels_types_and_masks(part):
    (part / "ground_truth" / "hole" / "002_mask.png").unlink()
    category = folder.load(part)
    assert list(category.train.names) == [f"train/good/{i:03d}.png" for i in range(8)]
    assert not category.train.labels.any()
    test = category.test
    assert test.labels.tolist() == [0] * 4 + [1] * 4
    assert list(test.defect_types) == ["good"] * 4 + ["hole"] * 4
    assert masks_by_name(test) == {f"good/{i:03d}.png": None for i in range(4)} | {
        f"hole/{i:03d}.png": None if i == 2 else f"hole/{i:03d}_mask.png" for i in range(4)
    }


def test_a_folder_of_good_images_only_is_enough(tmp_path):
    make_mvtec(tmp_path / ".data", train=3, good=0, bad=0)  # it may itself be hidden
    assert folder.categories(str(tmp_path / ".data")) == ("part",)
    category = folder.load(tmp_path / ".data", "part")
    assert (len(category.train), len(category.test)) == (3, 0)


def test_images_of_other_formats_and_in_further_folders_are_taken(part):
    for name in ("train/good/b/1.tif", "train/good/a/1.WEBP", "test/good/a/1.gif"):
        write_image(part / name, IMAGE)
    write_image(part / "test" / "hole" / "deep" / "x" / "1.png", IMAGE)
    write_image(part / "ground_truth" / "hole" / "deep" / "x" / "1_mask.png", WHITE)
    (part / "train" / "good" / "notes.txt").write_text("x")
    (part / "test" / "readme.md").write_text("x")
    category = folder.load(part)
    assert category.train.names[-2:] == ["train/good/a/1.WEBP", "train/good/b/1.tif"]
    test = category.test
    assert (test.names[4], test.defect_types[4]) == ("test/good/a/1.gif", "good")
    assert (test.names[-1], test.defect_types[-1]) == ("test/hole/deep/x/1.png", "hole")
    assert masks_by_name(test)["hole/deep/x/1.png"] == "hole/deep/x/1_mask.png"
    assert category.notes == ()


def test_a_folder_without_images_to_train_on_is_named(tmp_path):
    for _ in range(2):
        with pytest.raises(UserError, match="part/train/good: no images to train on"):
            folder.load(tmp_path, "part")
        (tmp_path / "part" / "train" / "good").mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize("where", ["train/good", "test/good", "test/hole", "ground_truth/hole"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_a_truncated_image_is_named(part, suffix, where):
    noise = np.random.default_rng(3).integers(0, 256, (200, 200), dtype=np.uint8)
    name = f"000_mask.{suffix}" if where.startswith("ground_truth") else f"000.{suffix}"
    (part / where / name).with_suffix(".png").unlink()
    file = write_image(part / where / name, noise)
    file.write_bytes(file.read_bytes()[:9000])
    with pytest.raises(UserError, match=f"{where}/{name}: a damaged or truncated image"):
        category = folder.load(part)  # which reads the masks
        pipeline.prepare(category.train if where == "train/good" else category.test, 32)


def test_a_folders_categories_are_found(tmp_path):
    make_mvtec(tmp_path, "bolt", 1, 0, 0)
    make_mvtec(tmp_path, "anchor", 1, 0, 0)
    (tmp_path / "notes").mkdir()
    assert folder.categories(str(tmp_path)) == ("anchor", "bolt")
    assert folder.categories(str(tmp_path / "bolt")) == ("bolt",)
    for data_dir in (tmp_path, tmp_path / "bolt"):
        (image,) = folder.load(data_dir, "bolt").train.images
        assert image == str(tmp_path / "bolt/train/good/000.png")
    with pytest.raises(UserError, match="no images to train on"):
        folder.categories(str(tmp_path / "notes"))


def test_what_is_hidden_is_no_data(part, tmp_path):
    before = folder.load(part)
    for name in (".ipynb_checkpoints", ".Trash-1000", "__MACOSX", "@eaDir", "lost+found"):
        make_mvtec(tmp_path, name, 1, 1, 1)  # no category
        for where in ("test", "train", "train/good", "test/hole", "ground_truth", "ground_truth/x"):
            write_image(part / where / name / "x.png", IMAGE)
    for where in ("train/good", "test/good", "test/hole", "ground_truth/hole", "test", "train"):
        for name in (".DS_Store", "Thumbs.db", "._000.png", ".x.png", "desktop.ini"):
            (part / where / name).write_bytes(b"x")
    assert folder.categories(str(tmp_path)) == ("part",)
    assert folder.load(part) == before


def test_upper_and_lower_case_count_alike(part):
    expected = folder.load(part)
    for old, new in (
        ("train/good", "train/Good"),
        ("test/good", "test/GOOD"),
        ("train", "Train"),
        ("test", "Test"),
        ("ground_truth/hole/000_mask.png", "ground_truth/hole/000_MASK.PNG"),
        ("ground_truth/hole", "ground_truth/Hole"),
        ("ground_truth", "Ground_Truth"),
    ):
        (part / old).rename(part / new)
    assert folder.categories(str(part.parent)) == ("part",)
    category = folder.load(part)
    assert category.train.names[0] == "Train/Good/000.png"
    assert category.test.defect_types == expected.test.defect_types
    assert [bool(mask) for mask in category.test.masks] == [False] * 4 + [True] * 4
    assert category.notes == ()
    # Both are meant.
    write_image(part / "Test" / "good" / "9.png", IMAGE)
    write_image(part / "Train" / "good" / "9.png", IMAGE)
    category = folder.load(part)
    assert category.train.names[-1] == "Train/good/9.png"
    assert [kind for kind in category.test.defect_types if kind != "hole"] == ["good"] * 5


def test_types_that_differ_in_case_keep_their_own_masks(part):
    for kind in ("Scratch", "scratch"):
        write_image(part / "test" / kind / "1.png", IMAGE)
        write_image(part / "ground_truth" / kind / "1_mask.png", WHITE)
    masks = masks_by_name(folder.load(part).test)
    assert masks["Scratch/1.png"] == "Scratch/1_mask.png"
    assert masks["scratch/1.png"] == "scratch/1_mask.png"
    (part / "ground_truth" / "Scratch" / "1_mask.png").unlink()
    assert masks_by_name(folder.load(part).test)["Scratch/1.png"] is None


def test_images_in_no_folder_of_a_type_are_named(part):
    image = write_image(part / "test" / "1.png", IMAGE)
    with pytest.raises(UserError, match=r"test/1.png: .* belong in .*test/good, others in .*TYPE"):
        folder.load(part)
    image.rename(part / "train" / "1.png")
    with pytest.raises(UserError, match=r"train/1.png: .* belong in .*train/good$"):
        folder.load(part)
    # Without train/good too; and a category beside others is not passed over.
    (part / "train" / "good").rename(part / "train" / "bad")
    make_mvtec(part.parent, "other", 1, 0, 0)
    assert folder.categories(str(part.parent)) == ("other", "part")
    for data_dir in (part, part.parent):
        with pytest.raises(UserError, match=r"train/1.png: .* belong in .*train/good$"):
            folder.load(data_dir, "part")


def test_a_folder_that_may_not_be_read_is_named(part, monkeypatch):
    def refused(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("os.listdir", refused)
    with pytest.raises(UserError, match=r"part: may not be read \(Permission denied\)"):
        folder.load(part)


@pytest.mark.parametrize(
    "name",
    ["000_mask.tif", "000.png", "000_gt.png", "000_GT.bmp", "000_label.PNG", "000_mask.TIFF"],
)
def test_the_usual_names_of_masks_are_known(part, name):
    mask = part / "ground_truth" / "hole" / "000_mask.png"
    mask.unlink()
    write_image(mask.with_name(name), WHITE)
    category = folder.load(part)
    assert masks_by_name(category.test)["hole/000.png"] == f"hole/{name}"
    assert category.notes == ()


def test_what_is_left_out_or_does_not_fit_is_one_note_each(part):
    hole = part / "ground_truth" / "hole"
    for name in ("test_public/good/1.png", "test_private/2.png", "4.png", "train/bad/1.png"):
        write_image(part / name, IMAGE)
    (part / "test" / "dent").mkdir()
    (part / "test" / "dent" / "000.psd").write_text("x")
    write_image(hole / "000.png", WHITE)  # MVTec's name goes first
    write_image(part / "ground_truth" / "000_mask.png", WHITE)
    write_image(part / "ground_truth" / "good" / "000_mask.png", BLACK)  # these are often there
    (hole / "001_mask.png").unlink()
    write_image(hole / "002_mask.png", BLACK)
    write_image(hole / "003_mask.png", WHITE[:, :30])
    category = folder.load(part)
    assert [note.partition(";")[0] for note in category.notes] == [
        "1 images of train/ are left out, such as train/bad/1.png",
        "1 folders of test/ hold no image, such as test/dent",
        "3 images are left out, such as 4.png",
        "1 anomalous images have no mask, such as test/hole/001.png",
        "2 masks belong to no image, such as ground_truth/000_mask.png",
        "1 masks mark nothing, such as ground_truth/hole/002_mask.png",
        "1 masks have another shape than their images, such as ground_truth/hole/003_mask.png",
    ]
    assert (len(category.train), len(category.test)) == (8, 8)
    masks = [masks_by_name(category.test)[f"hole/00{i}.png"] for i in range(4)]
    assert masks == ["hole/000_mask.png", None, None, "hole/003_mask.png"]


def test_masks_of_the_same_shape_may_be_smaller_or_turned(part):
    hole = part / "ground_truth" / "hole"
    for number, size in enumerate([(20, 20), (13, 14)]):
        write_image(hole / f"00{number}_mask.png", np.ones(size, np.uint8))
    # As viewers show it, the image is as high as the mask.
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(part / "test" / "hole" / "002.png", np.zeros([40, 80, 3], np.uint8), exif=exif)
    write_image(hole / "002_mask.png", np.ones([80, 40], np.uint8))
    (part / "ground_truth").rename(part / "Ground_truth")
    assert folder.load(part).notes == ()
    (part / "Ground_truth").rename(part / "elsewhere")  # Then no masks are missed.
    assert len(folder.load(part).notes) == 1
