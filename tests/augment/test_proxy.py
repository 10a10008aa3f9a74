"""The proxy tasks' views and labels, and that they are the same wherever they are made."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from conftest import slow_but
from PIL import Image

from cutpaste_tf.augment import paste, proxy, view

from . import reference
from .reference import noise

SEED = tf.constant([6, 28])
# The number of classes of each task.
CLASSES = dict.fromkeys(proxy.TASKS, 2) | {"rotation": 4, "cutpaste_3way": 3}
# Without the input's own augmentation: the views of class 0 are the images themselves.
STILL = proxy.Settings(translation=0.0, view_jitter=(0.0,))
AUGMENTED = proxy.Settings(translation=0.04, view_jitter=(0.1,))


def by_class(views, task):
    """Views as [K, B, H, W, 3]."""
    return views.numpy().reshape(CLASSES[task], -1, *views.shape[1:])


def make(images, task, settings=None, seed=SEED):
    """The views of a task, [K, B, H, W, 3]."""
    return by_class(proxy.make_views(tf.constant(images), task, seed, settings)[0], task)


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


# What tells the views of the classes after the first from those of the first; else a rectangle.
PATCHES = {"cutpaste_3way": [is_cutpaste, is_scar], "cutpaste_scar": [is_scar], "scar": [is_scar]}


def test_the_papers_tasks_and_defaults():
    assert {task: len(classes) for task, classes in proxy.TASKS.items()} == CLASSES
    names = {task: tuple(c.name for c in classes) for task, classes in proxy.TASKS.items()}
    assert names["cutpaste_3way"] == ("normal", "CutPaste", "CutPaste-Scar")
    assert all(name == "normal" for name, *_ in names.values())
    assert len(set(names.values())) == len(names)
    # Appendix A.2.
    defaults = proxy.Settings()
    assert (defaults.jitter, defaults.area_ratio) == (0.1, (0.02, 0.15))
    assert (paste.SCAR_WIDTH, paste.SCAR_LENGTH) == ((2, 16), (10, 25))


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("task", CLASSES)
def test_views_come_class_by_class_with_their_labels(task, batch):
    width = 40 if task == "rotation" else 56
    views, labels = proxy.make_views(noise(batch, 40, width, 3), task, SEED)
    assert views.shape == [CLASSES[task] * batch, 40, width, 3]
    assert views.dtype == tf.float32
    assert labels.dtype == tf.int32
    assert labels.numpy().tolist() == np.repeat(np.arange(CLASSES[task]), batch).tolist()


@pytest.mark.parametrize("settings", [AUGMENTED, STILL], ids=["augmented", "still"])
@pytest.mark.parametrize(
    "task", [task for task in CLASSES if task not in ("rotation", "cutpaste_union")]
)
def test_classes_differ_from_the_input_view_exactly_on_their_patch(task, settings):
    images = noise(6, 96, 96, 3)
    # Other than grey and than any mean, so that each pixel of an erased patch changes.
    images[..., 0] *= 0.5
    views = make(images, task, settings)
    assert np.array_equal(views[0], images) == (settings is STILL)
    for image in range(6):
        for label, is_kind in enumerate(PATCHES.get(task, [is_cutpaste]), 1):
            mask = changed(views[:, image], label)
            assert is_kind(mask)
            assert is_kind is is_cutpaste or mask.sum() <= 17 * 26


@pytest.mark.parametrize("settings", [AUGMENTED, STILL], ids=["augmented", "still"])
def test_rotation_turns_the_input_view_by_quarters(settings):
    images = noise(3, 40, 40, 3)
    views = make(images, "rotation", settings)
    for label, image in np.ndindex(4, 3):
        # PIL turns counter-clockwise, as the docstring has it, channel by channel.
        for channel in range(3):
            turned = Image.fromarray(views[0, image, ..., channel])
            if label:
                turned = turned.transpose(getattr(Image, f"ROTATE_{90 * label}"))
            assert np.array_equal(views[label, image, ..., channel], np.asarray(turned))
    assert np.array_equal(views[0], images) == (settings is STILL)


def test_the_union_is_of_both_kinds_of_patches_in_equal_parts():
    views = make(noise(400, 64, 64, 3), "cutpaste_union")
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

    images = noise(8, 64, 64, 3)
    views = make(images, task)
    for name, value in {"jitter": 0.3, "area_ratio": (0.2, 0.25)}.items():
        same = np.array_equal(views, make(images, task, proxy.Settings(**{name: value})))
        assert same == (name not in choices.TASKS[task]), name


def test_unjittered_patches_are_cut_from_the_input_view():
    images = reference.coded(6, 96, 96)
    settings = dataclasses.replace(STILL, jitter=0.0, translation=0.1)
    views = make(images, "cutpaste_3way", settings)
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


@pytest.mark.parametrize("task", CLASSES)
def test_same_seed_same_views_and_other_seed_other_views(task):
    images = noise(3, 48, 48, 3)
    first, again, other = (make(images, task, AUGMENTED, tf.constant([1, s])) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    for label, image in np.ndindex(first.shape[:2]):
        assert not np.array_equal(first[label, image], other[label, image])


def test_seed_may_be_a_list_or_an_array():
    expected = make(noise(2, 32, 32, 3), "cutpaste", seed=tf.constant([6, 28]))
    for seed in ([6, 28], np.array([6, 28], np.int32)):
        assert np.array_equal(make(noise(2, 32, 32, 3), "cutpaste", seed=seed), expected)


@pytest.mark.parametrize("levels", [[0.0], [1.0], [0.0, 1.0]], ids=["black", "white", "both"])
def test_views_stay_within_zero_and_one(levels):
    images = np.random.default_rng(2).choice(levels, (4, 32, 32, 3))
    settings = proxy.Settings(jitter=0.5, view_jitter=0.5)
    views = make(images.astype(np.float32), "cutpaste_3way", settings)
    assert np.isfinite(views).all()
    assert 0.0 <= views.min() <= views.max() <= 1.0


def test_settings_decide_the_inputs_augmentation():
    settings = proxy.Settings(translation=0.125, view_jitter=(0.25, 0.3, 0.35))
    drawn, _, _ = proxy.draw_views(2000, (32, 32), "cutpaste", SEED, settings)
    for corner in drawn.corner:
        reference.assert_equally_frequent(corner, range(-4, 5))
    for factors, maximum in zip(drawn.jitter.factors.numpy().T, settings.view_jitter, strict=True):
        reference.assert_uniform(factors, 1 - maximum, 1 + maximum)


def test_classes_share_their_input_view():
    jitter = (0.2, 0.0, 0.0)
    settings = proxy.Settings(translation=0.2, view_jitter=jitter)
    views = make(noise(40, 32, 32, 3), "cutpaste_3way", settings)
    # What is pasted covers at most 15% of the area: medians are of the input view.
    same = np.median(np.abs(views[1:] - views[:1]), axis=(2, 3, 4)) < 1e-6
    assert same.all()


def test_all_classes_see_one_crop():
    images = tf.constant(reference.coded(30, 64, 56))
    settings = dataclasses.replace(STILL, jitter=0.0, patch_size=32)
    views, labels = proxy.make_views(images, "cutpaste_3way", SEED, settings)
    assert views.shape == (90, 32, 32, 3)
    assert labels.shape == (90,)
    views = by_class(views, "cutpaste_3way")
    same = np.isclose(views, views[:1]).all(axis=-1).mean(axis=(2, 3))
    assert same[1:].min() > 0.4  # all but the pasted patch
    normals = views[0]
    assert len({tuple(one[0, 0, :2]) for one in normals}) > 20  # each image has its own


@pytest.mark.parametrize("task", ["rotation", "cutpaste_3way"])
def test_views_of_bytes_and_of_half_precision_are_those_of_their_float32(task):
    images = np.random.default_rng(0).integers(60, 196, (3, 48, 48, 3), dtype=np.uint8)
    shares = tf.cast(images, tf.float32) / 255.0
    single, half = make(shares, task), make(tf.cast(shares, tf.float16), task)
    np.testing.assert_array_equal(make(images, task), single)
    assert half.dtype == np.float16
    # Three roundings to 11 bits: of the images, after the view's jitter and after the patch's.
    np.testing.assert_allclose(half.astype(np.float32), single, rtol=0, atol=2e-3)


# Wherever the views are made.

TASK = "cutpaste_3way"
SHAPE = (5, 72, 90, 3)  # odd numbers


def make_augmented(images, seed):
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
    both = zip(compiled(images, SEED), make_all(images, SEED), strict=True)
    for task, (result, expected) in zip(OTHERS, both, strict=True):
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5, err_msg=task)


@pytest.mark.parametrize(
    ("task", "jit_compile"),
    [pytest.param(TASK, True, marks=pytest.mark.slow), ("rotation", False)],
)
def test_views_made_in_tf_data_equal_eager_ones(task, jit_compile):
    def make_compiled(images, seed=SEED):
        return proxy.make_views(images, task, seed, AUGMENTED, jit_compile=jit_compile)

    # The last batch is smaller, but with XLA, which would compile once more.
    images = noise(6 if jit_compile else 5, 64, 64, 3)
    data = tf.data.Dataset.from_tensor_slices(images).batch(3).map(make_compiled)
    assert data.element_spec[0].shape.as_list() == [None, 64, 64, 3]
    for views, batch in zip(data, (images[:3], images[3:]), strict=True):
        expected = proxy.make_views(tf.constant(batch), task, SEED, AUGMENTED)
        assert views[0].shape == expected[0].shape
        assert_same(views, expected)
    assert_same(make_compiled(tf.constant(batch)), expected)
    other = make_compiled(tf.constant(batch), SEED + 1)  # the draws are no constants of the graph
    assert np.abs(other[0] - expected[0]).max() > 0.1


@pytest.mark.parametrize("xla", slow_but([False, True], False), ids=["graph", "xla"])
def test_compiled_views_equal_eager_ones(xla):
    signature = [tf.TensorSpec([None, *SHAPE[1:]], tf.float32), tf.TensorSpec([2], tf.int32)]
    # Rewriting the Python code takes seconds, too; once, for the graph, is enough.
    compiled = tf.function(
        make_augmented, input_signature=signature, jit_compile=xla, autograph=not xla
    )
    images = tf.constant(noise(*SHAPE))
    for seed in (SEED, SEED + 1):  # the seed is an input, not a constant of the graph
        assert_same(compiled(images, seed), make_augmented(images, seed))


# Errors.


@pytest.mark.parametrize(
    ("shape", "task", "message"),
    [
        ((1, 32, 32, 3), "cutpast", r"rotation, .*cutpaste, .*cutpaste_3way.*'cutpast'"),
        ((2, 32, 40, 3), "rotation", "square"),
        *(
            (shape, "cutpaste", r"\[B, H, W, 3\]")
            for shape in [(32, 32, 3), (1, 1, 32, 32, 3), (2, 32, 32, 1), (2, 3, 32, 32)]
        ),
    ],
)
def test_unknown_tasks_and_other_shapes_are_refused(shape, task, message):
    with pytest.raises(ValueError, match=message):
        proxy.make_views(tf.zeros(shape), task, SEED)


@pytest.mark.parametrize("shape", [(None, None, 32, 3), (None, 32, None, 3)])
def test_unknown_height_or_width_is_refused(shape):
    compiled = tf.function(make_augmented, autograph=False)
    with pytest.raises(ValueError, match="static height and width"):
        compiled.get_concrete_function(tf.TensorSpec(shape), tf.TensorSpec([2], tf.int32))


# Regions of interest.


def masked_views(images, region, task, settings=STILL, **options):
    size = tuple(region.shape[1:])
    drawn = proxy.draw_views(len(images), size, task, SEED, settings, tf.constant(region))
    views, labels = proxy.apply_views(tf.constant(images), drawn, task, settings, **options)
    assert labels.numpy().tolist() == np.repeat(np.arange(CLASSES[task]), len(images)).tolist()
    return by_class(views, task)


def two_regions(count, size):
    """In turn a disc in the middle and a strip at the side."""
    rows, columns = np.indices(size)
    disc = np.hypot(rows - size[0] / 2, columns - size[1] / 2) < min(size) / 4
    return np.stack([disc, columns < 8] * (count // 2))


@pytest.mark.parametrize("translation", [0.0, 0.3])
@pytest.mark.parametrize("task", sorted(CLASSES))
def test_every_edit_changes_the_region_and_nothing_else(task, translation):
    """The region moves with its image, and an image whose region would leave the view stays."""
    images, region = noise(24, 64, 64, 3), two_regions(24, (64, 64))
    # So dark outside that a pixel tells where it is from, and so bright inside that it can change.
    images = tf.constant(np.where(region[..., None], images + 0.3, images * 0.3))
    settings = proxy.Settings(translation=translation)
    drawn = proxy.draw_views(24, (64, 64), task, SEED, settings, tf.constant(region))
    views = by_class(proxy.apply_views(images, drawn, task, settings)[0], task)
    for label, cls in enumerate(proxy.TASKS[task]):
        unedited = view.apply(images, drawn[0], (64, 64)).numpy()
        differs = (views[label] != np.rot90(unedited, cls.turns, axes=(1, 2))).any(-1)
        assert differs.any(axis=(1, 2)).all() == differs.any() == bool(cls.kind)
        assert not (differs & (unedited[..., 0] < 0.4)).any()
        assert np.array_equal(unedited, images) == (translation == 0.0)


@pytest.mark.parametrize("task", ["cutpaste_3way", "cutout"])
def test_views_of_regions_are_the_same_compiled(task):
    images, region = noise(6, 48, 48, 3), two_regions(6, (48, 48))
    views = masked_views(images, region, task, AUGMENTED)
    compiled = masked_views(images, region, task, AUGMENTED, jit_compile=True)
    np.testing.assert_allclose(views, compiled, atol=1e-6)
