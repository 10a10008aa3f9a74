"""The proxy tasks' views and labels, and that they are the same wherever they are made."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import slow_but
from PIL import Image

from cutpaste_tf.augment import paste, proxy, view

from . import reference

SEED = tf.constant([6, 28])
PASTING = {"cutpaste": 2, "cutpaste_scar": 2, "cutpaste_3way": 3}
CLASSES = PASTING | {
    "rotation": 4,
    "cutout": 2,
    "cutout_mean": 2,
    "cutout_color": 2,
    "confetti": 2,
    "scar": 2,
    "cutpaste_union": 2,
}
# Without the input's own augmentation: the views of class 0 are the images themselves.
STILL = proxy.Settings(translation=0.0, view_jitter=(0.0,))
AUGMENTED = proxy.Settings(translation=0.04, view_jitter=(0.1,))


def noise(*shape):
    return np.random.default_rng(1).uniform(0.3, 0.7, shape).astype(np.float32)


def by_class(views, task):
    """Views as [K, B, H, W, 3]."""
    return views.numpy().reshape(CLASSES[task], -1, *views.shape[1:])


def changed(views, image):
    return (views[image] != views[0]).any(-1)


def is_cutpaste(mask, area_ratio=(0.02, 0.15)):
    """A whole upright rectangle of CutPaste's area."""
    height, width = reference.bounding_box(mask)[2:]
    least = (height - 0.5) * (width - 0.5) / mask.size
    most = (height + 0.5) * (width + 0.5) / mask.size
    return reference.is_box(mask) and least <= area_ratio[1] and most >= area_ratio[0]


def is_scar(mask):
    """One small piece, in a box as narrow as a scar's."""
    height, width = reference.bounding_box(mask)[2:]
    bound = paste.SCAR_PIXELS
    return reference.is_one_piece_without_holes(mask) and height * width <= bound


def test_the_papers_tasks_and_defaults():
    assert {task: len(classes) for task, classes in proxy.TASKS.items()} == CLASSES
    names = {task: [c.name for c in classes] for task, classes in proxy.TASKS.items()}
    assert names["cutpaste_3way"] == ["normal", "CutPaste", "CutPaste-Scar"]
    assert all(of_task[0] == "normal" for of_task in names.values())
    assert len({tuple(of_task) for of_task in names.values()}) == len(names)
    # Appendix A.2.
    defaults = dataclasses.asdict(proxy.Settings())
    assert defaults["jitter"] == 0.1
    assert defaults["area_ratio"] == (0.02, 0.15)
    assert (paste.SCAR_WIDTH, paste.SCAR_LENGTH) == ((2, 16), (10, 25))


@pytest.mark.parametrize("task", CLASSES)
def test_views_come_class_by_class_with_their_labels(task):
    width = 40 if task == "rotation" else 56
    views, labels = proxy.make_views(tf.constant(noise(4, 40, width, 3)), task, SEED)
    number = CLASSES[task]
    assert views.shape == [number * 4, 40, width, 3]
    assert views.dtype == tf.float32
    assert labels.dtype == tf.int32
    assert labels.numpy().tolist() == np.repeat(np.arange(number), 4).tolist()


@pytest.mark.parametrize("settings", [AUGMENTED, STILL], ids=["augmented", "still"])
@pytest.mark.parametrize("task", PASTING)
def test_classes_differ_from_the_input_view_exactly_on_their_patch(task, settings):
    images = noise(5, 128, 128, 3)
    views = by_class(proxy.make_views(tf.constant(images), task, SEED, settings)[0], task)
    if settings is STILL:
        assert np.array_equal(views[0], images)
    for image in range(5):
        one = views[:, image]
        masks = [changed(one, label) for label in range(1, len(one))]
        kinds = {"cutpaste": [is_cutpaste], "cutpaste_scar": [is_scar]}.get(
            task, [is_cutpaste, is_scar]
        )
        for mask, kind in zip(masks, kinds, strict=True):
            assert kind(mask)
        if task != "cutpaste":
            assert masks[-1].sum() <= 17 * 26


@pytest.mark.parametrize("settings", [AUGMENTED, STILL], ids=["augmented", "still"])
def test_rotation_turns_the_input_view_by_quarters(settings):
    images = noise(3, 40, 40, 3)
    views = by_class(
        proxy.make_views(tf.constant(images), "rotation", SEED, settings)[0], "rotation"
    )
    for label, image in np.ndindex(4, 3):
        # PIL turns counter-clockwise, as the docstring has it, channel by channel.
        for channel in range(3):
            plane = Image.fromarray(views[0, image, ..., channel])
            turned = (
                plane if label == 0 else plane.transpose(getattr(Image, f"ROTATE_{90 * label}"))
            )
            assert np.array_equal(views[label, image, ..., channel], np.asarray(turned))
    assert np.array_equal(views[0], images) == (settings is STILL)


def test_rotation_needs_squares():
    with pytest.raises(ValueError, match="square"):
        proxy.make_views(tf.constant(noise(2, 32, 40, 3)), "rotation", SEED)


@pytest.mark.parametrize(
    ("task", "is_edited"),
    [(t, "box") for t in ("cutout", "cutout_mean", "cutout_color", "confetti")]
    + [("scar", "scar")],
)
def test_erasing_tasks_change_their_patch_alone(task, is_edited):
    images = noise(6, 96, 96, 3)
    # Other than grey and than any mean, so that each pixel of a patch changes.
    images[..., 0] *= 0.5
    views = by_class(proxy.make_views(tf.constant(images), task, SEED)[0], task)
    for image in range(6):
        mask = changed(views[:, image], 1)
        assert is_cutpaste(mask) if is_edited == "box" else is_scar(mask)


def test_the_union_is_of_both_kinds_of_patches_in_equal_parts():
    images = noise(400, 64, 64, 3)
    views = by_class(
        proxy.make_views(tf.constant(images), "cutpaste_union", SEED)[0], "cutpaste_union"
    )
    kinds = []
    for image in range(400):
        mask = changed(views[:, image], 1)
        # Scars lie in a box of at most 29 x 29; CutPaste's smallest patch has 2% of 64 x 64.
        scar = is_scar(mask) and not reference.is_box(mask)
        assert scar or is_cutpaste(mask) or is_scar(mask)
        kinds.append(mask.sum() > 17 * 26 or not scar)
    # A third of a standard deviation more for upright scars, which count as patches here.
    assert 0.4 < np.mean(kinds) < 0.62


@pytest.mark.parametrize("task", CLASSES)
def test_views_depend_on_the_ranges_that_choices_says_and_on_no_others(task):
    from cutpaste_tf import choices

    images = tf.constant(noise(8, 64, 64, 3))
    other = {"jitter": 0.3, "area_ratio": (0.2, 0.25)}
    first = proxy.make_views(images, task, SEED)[0]
    for name, value in other.items():
        ranges = dataclasses.replace(proxy.Settings(), **{name: value})
        same = np.array_equal(first, proxy.make_views(images, task, SEED, ranges)[0])
        assert same == (name not in choices.TASKS[task]), name


def test_input_view_is_translated_and_jittered_alike_in_all_classes():
    # One view per image, not one per class: the classes agree wherever none was edited.
    images = noise(4, 64, 64, 3)
    views, _ = proxy.make_views(tf.constant(images), "cutpaste_3way", SEED, AUGMENTED)
    views = by_class(views, "cutpaste_3way")
    for image in range(4):
        assert np.mean((views[:, image] == views[0, image]).all((0, -1))) > 0.8
        assert np.abs(views[0, image] - images[image]).max() > 0.01


def test_unjittered_patches_are_cut_from_the_input_view():
    images = reference.coded(6, 96, 96)
    settings = dataclasses.replace(STILL, jitter=0.0, translation=0.1)
    views = by_class(
        proxy.make_views(tf.constant(images), "cutpaste_3way", SEED, settings)[0], "cutpaste_3way"
    )
    shifts = set()
    for image in range(6):
        one = views[:, image]
        assert np.all(reference.decode(one)[2] == image)  # no pixel of another image
        # A pixel in the middle of the input view tells by how much it was translated; what is
        # then pasted occurs in that view.
        rows, columns, _ = reference.decode(one[0])
        shifts.add((rows[48, 48] - 48, columns[48, 48] - 48))
        present = set(zip(rows.ravel(), columns.ravel(), strict=True))
        for label in (1, 2):
            rows, columns, _ = reference.decode(one[label][changed(one, label)])
            assert set(zip(rows, columns, strict=True)) <= present
    assert len(shifts) > 1
    assert np.abs(list(shifts)).max() <= 9


def test_different_images_get_different_patches():
    images = np.repeat(noise(1, 64, 64, 3), 12, axis=0)
    views = by_class(
        proxy.make_views(tf.constant(images), "cutpaste_3way", SEED, STILL)[0], "cutpaste_3way"
    )
    for label in (1, 2):
        masks = {changed(views[:, image], label).tobytes() for image in range(12)}
        assert len(masks) == 12


def test_patch_and_scar_of_an_image_are_unrelated():
    images = tf.constant(np.repeat(noise(1, 48, 48, 3), 300, axis=0))
    views = by_class(proxy.make_views(images, "cutpaste_3way", SEED, STILL)[0], "cutpaste_3way")
    boxes = np.array(
        [
            [reference.bounding_box(changed(views[:, image], label)) for label in (1, 2)]
            for image in range(300)
        ]
    )
    middle = boxes[..., :2] + boxes[..., 2:] / 2
    for axis in (0, 1):
        reference.assert_unrelated(middle[:, 0, axis], middle[:, 1, axis])


def test_patches_cover_the_image_evenly_over_many_draws():
    # What has to lie inside covers the middle more often than the border, but no side or quarter
    # more than another.
    images = tf.constant(np.repeat(noise(1, 32, 32, 3), 1500, axis=0))
    views = by_class(proxy.make_views(images, "cutpaste_3way", SEED, STILL)[0], "cutpaste_3way")
    for label in (1, 2):
        covered = (views[label] != views[0]).any(-1).sum(0)
        assert covered.reshape(8, 4, 8, 4).sum((1, 3)).min() > 0
        quarters = covered.reshape(2, 16, 2, 16).sum((1, 3))
        np.testing.assert_allclose(quarters / quarters.mean(), 1.0, atol=0.12)


@pytest.mark.parametrize("task", CLASSES)
def test_same_seed_same_views_and_other_seed_other_views(task):
    images = tf.constant(noise(3, 48, 48, 3))
    first, again, other = (
        by_class(proxy.make_views(images, task, tf.constant([1, s]), AUGMENTED)[0], task)
        for s in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    for label, image in np.ndindex(first.shape[:2]):
        assert not np.array_equal(first[label, image], other[label, image])


def test_seed_may_be_a_list_or_an_array():
    images = tf.constant(noise(2, 32, 32, 3))
    views = [
        proxy.make_views(images, "cutpaste", seed)[0]
        for seed in ([6, 28], np.array([6, 28], np.int32), tf.constant([6, 28]))
    ]
    assert np.array_equal(views[0], views[1])
    assert np.array_equal(views[0], views[2])


@pytest.mark.parametrize("task", CLASSES)
def test_batch_of_one(task):
    views, labels = proxy.make_views(tf.constant(noise(1, 40, 40, 3)), task, SEED, STILL)
    assert labels.numpy().tolist() == list(range(CLASSES[task]))
    views = by_class(views, task)
    assert all(changed(views[:, 0], label).any() for label in range(1, CLASSES[task]))


@pytest.mark.parametrize("kind", ["black", "white", "both"])
def test_views_stay_within_zero_and_one(kind):
    images = {
        "black": np.zeros([4, 32, 32, 3]),
        "white": np.ones([4, 32, 32, 3]),
        "both": np.random.default_rng(2).integers(0, 2, (4, 32, 32, 3)),
    }[kind]
    settings = proxy.Settings(jitter=0.5, view_jitter=0.5)
    views, _ = proxy.make_views(tf.constant(images, tf.float32), "cutpaste_3way", SEED, settings)
    assert np.isfinite(views).all()
    assert 0.0 <= views.numpy().min() <= views.numpy().max() <= 1.0


def source_of(settings, label, size=(256, 256)):
    """Height and width of each image's cut patch, and how many pixels were pasted."""
    settings = dataclasses.replace(settings, translation=0.0, view_jitter=0.0, jitter=0.0)
    images = tf.constant(reference.coded(8, *size))
    views = by_class(proxy.make_views(images, "cutpaste_3way", SEED, settings)[0], "cutpaste_3way")
    found = []
    for image in range(8):
        mask = changed(views[:, image], label)
        rows, columns, _ = reference.decode(views[label, image][mask])
        found.append((np.ptp(rows) + 1, np.ptp(columns) + 1, mask.sum()))
    return np.array(found)


def test_settings_decide_the_patchs_area():
    height, width, pixels = source_of(proxy.Settings(area_ratio=(0.25, 0.25)), 1).T
    assert np.array_equal(height * width, pixels)
    np.testing.assert_allclose(pixels / 256**2, 0.25, rtol=0.01)


@pytest.mark.parametrize("label", [1, 2])
def test_settings_decide_the_patchs_jitter(label):
    images = tf.fill([200, 36, 36, 3], 0.5)
    settings = dataclasses.replace(STILL, jitter=0.3)
    views = by_class(proxy.make_views(images, "cutpaste_3way", SEED, settings)[0], "cutpaste_3way")
    values = [views[label, image][changed(views[:, image], label)].mean() for image in range(200)]
    reference.assert_uniform(np.array(values) / 0.5, 0.7, 1.3)
    assert np.all(views[0] == 0.5)


def test_settings_decide_the_views_augmentation(monkeypatch):
    seen = {}
    draw = view.draw

    def spy(batch, size, seed, **kwargs):
        seen.update(kwargs)
        return draw(batch, size, seed, **kwargs)

    monkeypatch.setattr(view, "draw", spy)
    settings = proxy.Settings(translation=0.125, view_jitter=(0.25,))
    proxy.make_views(tf.constant(noise(1, 32, 32, 3)), "cutpaste", SEED, settings)
    assert seen == {"translation": 0.125, "jitter": (0.25,), "crops": None}


@pytest.mark.parametrize("independent", [False, True])
def test_classes_share_a_view_or_draw_one_each(independent):
    images = tf.constant(noise(40, 32, 32, 3))
    settings = proxy.Settings(
        translation=0.2, view_jitter=(0.2, 0.0, 0.0), independent_views=independent
    )
    views = by_class(proxy.make_views(images, "cutpaste_3way", SEED, settings)[0], "cutpaste_3way")
    # What is pasted covers at most 15% of the area: medians are of the input view.
    same = np.median(np.abs(views[1:] - views[:1]), axis=(2, 3, 4)) < 1e-6
    assert not same.any() if independent else same.all()


@pytest.mark.parametrize("independent", [False, True])
def test_all_classes_see_one_crop(independent):
    images = tf.constant(reference.coded(30, 64, 56))
    settings = dataclasses.replace(STILL, jitter=0.0, patch_size=32, independent_views=independent)
    views, labels = proxy.make_views(images, "cutpaste_3way", SEED, settings)
    assert views.shape == (90, 32, 32, 3)
    assert labels.shape == (90,)
    views = by_class(views, "cutpaste_3way")
    same = np.isclose(views, views[:1]).all(axis=-1).mean(axis=(2, 3))
    assert same[1:].min() > 0.4  # all but the pasted patch
    normals = views[0]
    assert len({tuple(one[0, 0, :2]) for one in normals}) > 20  # each image has its own


# Types.


@pytest.fixture
def mixed_float16():
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_float16")
    yield
    keras.mixed_precision.set_global_policy(before)


@pytest.mark.usefixtures("mixed_float16")
@pytest.mark.parametrize("dtype", [tf.float16, tf.float32])
def test_dtype_is_the_images_under_mixed_precision(dtype):
    views, labels = proxy.make_views(tf.constant(noise(2, 48, 48, 3), dtype), "cutpaste_3way", SEED)
    assert views.dtype == dtype
    assert labels.dtype == tf.int32


def test_float16_views_are_the_float32_views_rounded():
    images = noise(3, 64, 64, 3).astype(np.float16)
    half, single = (
        proxy.make_views(tf.constant(images, dtype), "cutpaste_3way", SEED)[0].numpy()
        for dtype in (tf.float16, tf.float32)
    )
    assert half.dtype == np.float16
    # Two roundings to 11 bits: after the view's jitter and after the patch's.
    np.testing.assert_allclose(half.astype(np.float32), single, rtol=0, atol=2e-3)


@pytest.mark.parametrize("task", ["rotation", "cutpaste_3way"])
def test_views_of_bytes_are_those_of_their_shares_of_255(task):
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    found, labels = proxy.make_views(tf.constant(images), task, SEED)
    shares = tf.cast(images, tf.float32) / 255.0
    expected, same = proxy.make_views(shares, task, SEED)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(labels, same)


# Wherever the views are made.

TASK = "cutpaste_3way"
SHAPE = (5, 72, 90, 3)  # odd numbers


def make(images, seed):
    return proxy.make_views(images, TASK, seed, AUGMENTED)


def assert_same(actual, expected):
    np.testing.assert_allclose(actual[0], expected[0], rtol=0, atol=1e-5)
    assert np.array_equal(actual[1], expected[1])


# Between them these use every operation that CutPaste (3-way) leaves out; in one graph, since
# compiling takes most of the time.
OTHERS = ["rotation", "cutout_mean", "confetti", "cutpaste_union"]


@pytest.mark.parametrize("xla", slow_but([False, True], False), ids=["graph", "xla"])
def test_the_other_tasks_compiled_equal_eager_ones(xla):
    # The view's own augmentation is the same for all tasks.
    settings = dataclasses.replace(AUGMENTED, translation=0.0, view_jitter=0.0)

    def make_all(images, seed):
        return [proxy.make_views(images, task, seed, settings)[0] for task in OTHERS]

    images = tf.constant(noise(3, 64, 64, 3))
    compiled = tf.function(make_all, jit_compile=xla, autograph=False)
    for task, found, expected in zip(
        OTHERS, compiled(images, SEED), make_all(images, SEED), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=task)


@pytest.mark.parametrize("task", [TASK, "rotation"])
def test_views_compiled_by_themselves_equal_eager_ones(task):
    def compiled(images, seed):
        return proxy.make_views(images, task, seed, AUGMENTED, jit_compile=True)

    images = noise(6, 64, 64, 3)
    data = tf.data.Dataset.from_tensor_slices(images).batch(3)
    expected = [
        proxy.make_views(tf.constant(part), task, SEED, AUGMENTED)
        for part in (images[:3], images[3:])
    ]
    for found, same in zip(data.map(lambda batch: compiled(batch, SEED)), expected, strict=True):
        assert_same(found, same)
    assert_same(compiled(tf.constant(images[:3]), SEED), expected[0])
    other = compiled(tf.constant(images[:3]), SEED + 1)  # the draws are no constants in it
    assert np.abs(other[0] - expected[0][0]).max() > 0.1


@pytest.mark.parametrize("xla", slow_but([False, True], False), ids=["graph", "xla"])
def test_compiled_views_equal_eager_ones(xla):
    # One test for what could be three: compiling takes most of the time.
    signature = [tf.TensorSpec([None, *SHAPE[1:]], tf.float32), tf.TensorSpec([2], tf.int32)]
    # Rewriting the Python code takes seconds, too; once, for the graph, is enough.
    compiled = tf.function(make, input_signature=signature, jit_compile=xla, autograph=not xla)
    images = tf.constant(noise(*SHAPE))
    for seed in (SEED, SEED + 1):  # the seed is an input, not a constant of the graph
        assert_same(compiled(images, seed), make(images, seed))
    views, labels = compiled.get_concrete_function().structured_outputs
    assert views.shape.as_list() == [None, *SHAPE[1:]]
    assert labels.shape.as_list() == [None]


def test_views_of_a_known_batch_have_a_known_shape():
    # Training steps and TPUs want static shapes.
    concrete = tf.function(make, autograph=False).get_concrete_function(
        tf.TensorSpec(SHAPE, tf.float32), tf.TensorSpec([2], tf.int32)
    )
    views, labels = concrete.structured_outputs
    assert views.shape.as_list() == [15, *SHAPE[1:]]
    assert labels.shape.as_list() == [15]


def test_views_made_in_tf_data_equal_eager_ones():
    images = noise(*SHAPE)
    # The last batch is smaller, so the batch's size is unknown.
    images = np.concatenate([images, images[:2]])
    dataset = tf.data.Dataset.from_tensor_slices(images).batch(SHAPE[0])
    dataset = dataset.map(lambda batch: make(batch, SEED))
    assert dataset.element_spec[0].shape.as_list() == [None, *SHAPE[1:]]
    full, rest = list(dataset)
    assert_same(full, make(tf.constant(images[: SHAPE[0]]), SEED))
    assert rest[0].shape == [6, *SHAPE[1:]]
    assert_same(rest, make(tf.constant(images[:2]), SEED))


# Errors.


def test_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"rotation, .*cutpaste, .*cutpaste_3way.*'cutpast'"):
        proxy.make_views(tf.constant(noise(1, 32, 32, 3)), "cutpast", SEED)


@pytest.mark.parametrize(
    "shape", [(32, 32, 3), (1, 1, 32, 32, 3), (2, 32, 32, 1), (2, 32, 32, 4), (2, 3, 32, 32)]
)
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"\[B, H, W, 3\]"):
        proxy.make_views(tf.zeros(shape), "cutpaste", SEED)


def test_unknown_height_is_refused():
    compiled = tf.function(make, autograph=False)
    with pytest.raises(ValueError, match="static height and width"):
        compiled.get_concrete_function(
            tf.TensorSpec([None, None, 32, 3], tf.float32), tf.TensorSpec([2], tf.int32)
        )


def masked_views(images, region, task, settings=STILL, seed=SEED, **options):
    size = tuple(region.shape[1:])
    drawn = proxy.draw_views(len(images), size, task, seed, settings, tf.constant(region))
    views, labels = proxy.apply_views(tf.constant(images), drawn, task, settings, **options)
    assert labels.numpy().tolist() == np.repeat(np.arange(CLASSES[task]), len(images)).tolist()
    return by_class(views, task)


def two_regions(count, size):
    """In turn a disc in the middle and a strip at the side."""
    rows, columns = np.indices(size)
    disc = np.hypot(rows - size[0] / 2, columns - size[1] / 2) < min(size) / 4
    return np.stack([disc, columns < 8] * (count // 2))


@pytest.mark.parametrize("independent", [False, True], ids=["one view", "independent"])
@pytest.mark.parametrize("translation", [0.0, 0.3])
@pytest.mark.parametrize("task", sorted(CLASSES))
def test_every_edit_changes_the_region_and_nothing_else(task, translation, independent):
    """The region moves with its image, and an image whose region would leave the view stays."""
    images, region = noise(24, 64, 64, 3), two_regions(24, (64, 64))
    # So dark outside that a pixel tells where it is from, and so bright inside that it can change.
    images = tf.constant(np.where(region[..., None], images + 0.3, images * 0.3))
    settings = proxy.Settings(translation=translation, independent_views=independent)
    drawn = proxy.draw_views(24, (64, 64), task, SEED, settings, tf.constant(region))
    views = by_class(proxy.apply_views(images, drawn, task, settings)[0], task)
    for label, cls in enumerate(proxy.TASKS[task]):
        unedited = view.apply(images, drawn[0][label % len(drawn[0])], (64, 64)).numpy()
        differs = (views[label] != np.rot90(unedited, cls.turns, axes=(1, 2))).any(-1)
        assert differs.any(axis=(1, 2)).all() == differs.any() == bool(cls.kind)
        assert not (differs & (unedited[..., 0] < 0.4)).any()
        assert np.array_equal(unedited, images) == (translation == 0.0)


@pytest.mark.parametrize("task", ["cutpaste_3way", "cutpaste_union", "scar", "rotation"])
def test_what_lies_outside_the_region_is_in_no_view_of_it(task):
    """As images are made: grey there."""
    size = (64, 64)
    region = two_regions(8, size)
    first, other = noise(8, *size, 3), noise(8, *size, 3)[::-1]
    views = []
    for outside in (first, other):
        images = np.where(region[..., None], first, outside)
        images[~region] = 0.5  # as `Preparation` leaves them
        views.append(masked_views(images, region, task, AUGMENTED))
    np.testing.assert_array_equal(*views)
    # Without translation they are grey there in all views.
    still = masked_views(images, region, task)
    if task != "rotation":
        assert (still[:, ~region] == 0.5).all()
        return
    for label in range(4):
        np.testing.assert_array_equal(still[label], np.rot90(images, label, axes=(1, 2)))


@pytest.mark.parametrize("task", ["cutpaste_3way", "cutout"])
def test_views_of_regions_are_the_same_compiled_and_of_the_seed(task):
    images, region = noise(6, 48, 48, 3), two_regions(6, (48, 48))
    views = masked_views(images, region, task, AUGMENTED)
    compiled = masked_views(images, region, task, AUGMENTED, jit_compile=True)
    np.testing.assert_allclose(views, compiled, atol=1e-6)
    again = masked_views(images, region, task, AUGMENTED)
    np.testing.assert_array_equal(views, again)
    other = masked_views(images, region, task, AUGMENTED, seed=tf.constant([6, 29]))
    assert (views != other).any()


def test_a_region_of_everything_edits_the_whole_image_as_none_does():
    images = np.repeat(noise(1, 32, 32, 3), 600, axis=0)
    views = masked_views(images, np.ones([600, 32, 32], bool), "cutpaste_3way")
    for image in range(5):
        one = views[:, image]
        assert is_cutpaste(changed(one, 1))
        assert is_scar(changed(one, 2))
    for label in (1, 2):
        covered = (views[label] != views[0]).any(-1).sum(0)
        quarters = covered.reshape(2, 16, 2, 16).sum((1, 3))
        np.testing.assert_allclose(quarters / quarters.mean(), 1.0, atol=0.15)
