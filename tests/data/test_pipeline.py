"""The tf.data pipelines."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import pattern, write_image

from cutpaste_tf import threshold
from cutpaste_tf.data import pipeline
from cutpaste_tf.data.preparation import Preparation
from cutpaste_tf.data.split import Category, normal_split
from cutpaste_tf.scoring import density


def numbered(count, size=32):
    """Images that show their own number."""
    arrays = [np.full([size, size], i, np.uint8) for i in range(count)]
    return pipeline.prepare(normal_split([str(i) for i in range(count)], arrays), size)


def order(images, batch_size, seed, start=0, batches=12):
    data = pipeline.training_batches(images, batch_size, seed, start).take(batches)
    return [(int(step), batch[:, 0, 0, 0].tolist()) for step, batch in data.as_numpy_iterator()]


@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
def test_any_number_of_channels_becomes_rgb(channels):
    shape = [8, 8] if channels is None else [8, 8, channels]
    image = np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)
    rgb = pipeline.to_rgb(image)
    flat = image.reshape([8, 8, -1])
    expected = np.repeat(flat[..., :1], 3, -1) if flat.shape[-1] < 3 else flat[..., :3]
    assert (rgb == expected).all()


def test_every_image_comes_once_before_one_comes_again():
    drawn = [n for _, batch in order(numbered(10), 5, seed=0, batches=6) for n in batch]
    for epoch in range(3):
        assert sorted(drawn[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert drawn[:10] != drawn[10:20]  # each epoch in another order
    ((_, batch),) = order(numbered(3), 8, seed=0, batches=1)
    assert len(batch) == 8  # of a set that is smaller
    assert set(batch) == {0, 1, 2}


def test_the_order_is_the_seeds_whatever_was_read_before():
    images = numbered(10)
    expected = order(images, 4, seed=3)
    assert order(images, 4, seed=4) != expected
    for start in (1, 5, 7):
        assert order(images, 4, seed=3, start=start, batches=5) == expected[start : start + 5]
    # Keras makes one iterator more under tf.distribute; a run that goes on makes one of its own.
    data = pipeline.training_batches(images, 4, seed=3).take(7)
    first, second = ([b.sum() for _, b in data.as_numpy_iterator()] for _ in range(2))
    assert first == second
    tf.random.set_seed(5)
    assert order(numbered(10), 4, seed=3) == expected


# A region of which a tile of 2x2 shows nothing, another a little.
ROI = np.zeros([60, 90], bool)
ROI[5:25, 10:60] = ROI[25:40, 8:20] = True
SHAPED = {
    "tiles": Preparation((32, 40), tiles=(2, 2)),
    "region": Preparation((32, 40), roi=ROI),
    "padded tiles": Preparation((32, 40), "pad", (1, 3)),
    "padded tiles with a region": Preparation((32, 40), "pad", (2, 2), roi=ROI),
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Files of several sizes."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    sizes = [(60, 90), (90, 60), (60, 90), (120, 180), (41, 73)]
    arrays = [pattern(rng, max(size))[: size[0], : size[1]] for size in sizes]
    paths = [str(write_image(folder / f"{i}.png", array)) for i, array in enumerate(arrays)]
    return normal_split(paths, paths), arrays


@pytest.mark.parametrize("shape", SHAPED)
def test_what_does_not_fit_into_memory_is_read_as_what_does(shape, photographs, monkeypatch):
    (split, arrays), preparation = photographs, SHAPED[shape]
    kept = pipeline.prepare(split, preparation)
    in_memory = pipeline.of_arrays(arrays, preparation)
    monkeypatch.setattr(pipeline, "MEMORY_LIMIT", 0)
    streamed = pipeline.prepare(split, preparation)
    assert kept.paths is None
    assert streamed.stored is None
    sets = (kept, streamed, in_memory)
    np.testing.assert_array_equal(*(images.sizes for images in sets[:2]))
    for batches in zip(*(pipeline.training_batches(x, 3, 0).take(5) for x in sets), strict=True):
        assert len(batches[0]) == 2 + preparation.masked
        for one, *others in zip(*batches, strict=True):
            for other in others:
                np.testing.assert_array_equal(one, other)
    expected = np.stack([preparation.apply(array) for array in arrays])
    for images in sets:
        batches = [batch.numpy() for batch in pipeline.evaluation_batches(images, 4)]
        assert {len(batch) for batch in batches[:-1]} <= {4}
        np.testing.assert_array_equal(np.concatenate(batches), expected)
        canvases = images.canvases([3, 1])
        np.testing.assert_array_equal(canvases[1], preparation.on_canvas(arrays[1]))
        part = images.subset([4, 0])
        assert part.own_size(0) == (41, 73)
        np.testing.assert_array_equal(part.canvases([0])[0], preparation.on_canvas(arrays[4]))
        np.testing.assert_array_equal(
            np.concatenate(list(pipeline.evaluation_batches(part, 100))),
            expected[[4, 0]],
        )


# Of eight pixels a place.
CELLS = tuple(np.repeat(np.eye(count, dtype=np.float32), 8, axis=1) for count in (4, 5))


@pytest.mark.parametrize("shape", SHAPED)
def test_the_region_is_cut_as_images_are(shape, photographs):
    (_, arrays), preparation = photographs, SHAPED[shape]
    images = pipeline.of_arrays(arrays, preparation)
    assert (images.inputs, images.size) == (5 * preparation.count, (32, 40))
    if not preparation.masked:
        assert images.regions is None
        assert images.places(CELLS) is None
        assert images.region(0) is None
        assert images.in_region.all()
        return
    regions = [preparation.region(*array.shape[:2]) for array in arrays]
    for index, region in enumerate(regions):
        np.testing.assert_array_equal(images.region(index), region)
    expected = np.concatenate([preparation.cut(region[None])[0] for region in regions])
    numbers = tf.constant([3, 0, len(expected) - 1, 3], tf.int64)
    found = images.regions_of(numbers)
    np.testing.assert_array_equal(found, expected[numbers.numpy()])
    np.testing.assert_array_equal(tf.function(images.regions_of)(numbers), found)
    np.testing.assert_array_equal(images.in_region.ravel(), expected.any(axis=(1, 2)))
    places = images.places(CELLS).reshape(-1, 4, 5)
    for one, region in zip(places, expected, strict=True):
        np.testing.assert_array_equal(one, region.reshape(4, 8, 5, 8).any(axis=(1, 3)))
    # Of none there is nothing.
    nothing = images.subset([])
    assert nothing.in_region.shape == (0, preparation.count)
    assert nothing.places(CELLS).shape == (0, preparation.count, 4, 5)
    (batch,) = pipeline.evaluation_batches(nothing, 4)
    assert batch.shape == (0, preparation.count, 32, 40, 3)
    assert nothing.canvases([]).shape == (0, *preparation.canvas, 3)


def test_a_tile_without_any_region_is_not_trained_on(photographs):
    _, arrays = photographs
    images = pipeline.of_arrays(arrays, SHAPED["padded tiles with a region"])
    usable = np.flatnonzero(images.in_region)
    assert 0 < len(usable) < images.inputs
    stored = images.stored.numpy().reshape(-1, *images.size, 3)
    drawn = []
    batches = pipeline.training_batches(images, 2, seed=0).take(len(usable))
    for _, batch, region in batches.as_numpy_iterator():
        assert region.any(axis=(1, 2)).all()
        drawn += [int(np.flatnonzero((stored == one).all(axis=(1, 2, 3)))[0]) for one in batch]
    # Every other one as often as any.
    assert sorted(drawn) == sorted(2 * usable.tolist())
    later = pipeline.training_batches(images, 2, seed=0, start=5).take(4)
    again = pipeline.training_batches(images, 2, seed=0).skip(5).take(4)
    for one, other in zip(later, again, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_sizes_that_lie_alike_on_the_canvas_have_a_region_in_common(photographs):
    _, arrays = photographs
    images = pipeline.of_arrays(arrays, SHAPED["padded tiles"])
    regions, which = images.regions
    # 60x90 and 120x180 become the same.
    assert which.tolist() == [0, 1, 0, 0, 2]
    assert len(regions) == 3


def test_copies_leave_the_threshold_at_its_rate(capsys):
    shares = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        arrays = list(rng.integers(0, 256, (1060, 4, 4, 3), np.uint8))
        new = np.reshape(arrays[60:], [1000, 48]).astype(float)
        found = []
        for copied in (0, 12, 60):
            order = rng.permutation(60 + copied)  # wherever the copies lie
            arrays_now = [(arrays[:60] + arrays[:copied])[i] for i in order]
            category = Category(
                normal_split(list(map(str, order)), arrays_now), normal_split([], [])
            )
            images = [pipeline.prepare(split, 4) for split in (category.train, category.test)]
            category, kept = pipeline.without_copies(category, *images)
            assert (len(category.train), kept.count) == (60, 60)
            features = kept.stored.numpy().reshape(60, 1, 48).astype(float)
            normal_scores = density.cross_validated_scores("gde", features, kept.in_region)
            value = threshold.at_rate(normal_scores.ravel(), 0.1)
            found.append(np.mean(density.fit("gde", features[:, 0]).score(new) > value))
        shares.append(found)
    assert np.all(np.abs(np.mean(shares, axis=0) - 0.1) < 0.05)
    warnings = capsys.readouterr().err.splitlines()
    assert warnings[0].startswith("warning: 12 of 72 training images are copies, such as ")
    assert warnings[0].endswith("; each image counts once")
    assert len(warnings) == 8
