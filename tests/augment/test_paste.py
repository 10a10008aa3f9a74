"""CutPaste and CutPaste-Scar: places, sizes, turning, jitter of the patch alone, and writing.

Most images here are coded: each pixel tells its row, its column and its image, so that an edit
without jitter shows where every pasted pixel was cut, whatever was drawn.
"""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from cutpaste_tf.augment import color, paste

from . import edits, reference
from .reference import noise

SEED = tf.constant([3, 14])
DRAWS = 4000
BATCH = 6
# Stable in continuous integration: the same examples every time, and no time limit on any.
FEW = settings(max_examples=12, deadline=None, derandomize=True)
SEEDS = st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 2)
SIZES = st.tuples(st.integers(32, 96), st.integers(32, 96))
# The paper's, and those of its Table 8; the widest that a user may reasonably ask for.
AREA_RATIOS = st.sampled_from([(0.02, 0.1), (0.02, 0.15), (0.02, 0.3), (0.1, 0.1), (0.001, 0.5)])


def patch_of(rectangles, size, rng):
    """A `Patch` of (height, width, angle) at random places; angle None: upright."""
    fields = []
    for height, width, angle in rectangles:
        box = (height, width) if angle is None else reference.turned_box(height, width, angle)
        source = rng.integers(0, [size[0] - height + 1, size[1] - width + 1])
        target = rng.integers(0, [size[0] - box[0] + 1, size[1] - box[1] + 1])
        fields.append([height, width, angle or 0.0, *source, *box, *target])
    names = paste.Patch._fields
    columns = dict(zip(names, np.array(fields).T, strict=True))
    patch = {name: tf.constant(columns[name].astype(np.int32)) for name in names}
    upright = rectangles[0][2] is None
    patch["angle"] = None if upright else tf.constant(columns["angle"].astype(np.float32))
    return paste.Patch(**patch)


def one(patch, image):
    """The numbers of one image's patch."""
    values = patch._asdict().items()
    return {name: value[image].numpy() for name, value in values if value is not None}


def assert_inside(p, size):
    """A patch is cut and pasted inside its image."""
    for place, box in (("source", ""), ("target", "box_")):
        for first, side, limit in zip("yx", ("height", "width"), size, strict=True):
            assert np.all(p[f"{place}_{first}"] >= 0)
            assert np.all(p[f"{place}_{first}"] <= limit - p[box + side])


def cut_and_check(patch, size, pixels=paste.SCAR_PIXELS):
    """Cuts turned patches out of coded images, and compares the edit with what NumPy expects."""
    images = reference.coded(len(patch.height), *size)
    edit = paste.cut(tf.constant(images), patch, pixels, None)
    for image in range(len(images)):
        check_turned(edit, patch, image, size)
    return edit


def check_turned(edit, patch, image, size):
    """An unjittered edit of coded images takes, at each target pixel, the nearest source pixel.

    Pixel by pixel over the target box. Within 0.001 of an edge between pixels, either side is
    right, as the angle is a float32.
    """
    p = one(patch, image)
    rows, columns, images = reference.decode(edit.pixels[image])
    assert np.all(images == image)
    sources = {}
    for at, row, column in zip(edit.index[image].numpy(), rows, columns, strict=True):
        # A pixel may be listed twice, but then with the same value.
        assert sources.setdefault(divmod(int(at), size[1]), (row, column)) == (row, column)
    height, width, angle = p["height"], p["width"], float(p["angle"])
    box = p["box_height"], p["box_width"]
    for row, column in np.ndindex(*box):
        y, x = reference.turned_back(row, column, height, width, angle, *box)
        depth = min(y, height - y, x, width - x)  # how far inside
        source = sources.pop((p["target_y"] + row, p["target_x"] + column), None)
        if source is None:
            assert depth < 1e-3, "a hole"
        else:
            assert depth > -1e-3, "a pixel outside the scar"
            # The source pixel is the one that the point lies in.
            source_row, source_column = source[0] - p["source_y"], source[1] - p["source_x"]
            assert 0 <= source_row < height
            assert 0 <= source_column < width
            assert max(abs(y - source_row - 0.5), abs(x - source_column - 0.5)) < 0.5 + 1e-3
    assert not sources, "a pixel outside the box"


# CutPaste.


@FEW
@given(seed=SEEDS, size=SIZES, area_ratio=AREA_RATIOS)
def test_cutpaste_moves_one_whole_rectangle_within_each_image(seed, size, area_ratio):
    images = reference.coded(BATCH, *size)
    edit = edits.cutpaste(tf.constant(images), tf.constant(seed), area_ratio=area_ratio, jitter=0.0)
    rows, columns, sources = reference.decode(edit.pixels)
    assert edit.index.shape[1] == paste.patch_pixels(size, area_ratio)
    for b in range(BATCH):
        assert np.all(sources[b] == b)  # of its own image
        mask = reference.written(edit, b, size)
        assert reference.is_box(mask)
        # All pixels have moved by the same whole number of pixels, from inside the image.
        down, right = np.divmod(edit.index[b].numpy(), size[1]) - np.stack([rows[b], columns[b]])
        assert np.ptp(down) == np.ptp(right) == 0
        # The source box equals the target box in the edited images, pixel by pixel.
        top, left, height, width = reference.bounding_box(mask)
        y, x = top - down[0], left - right[0]
        assert 0 <= y <= size[0] - height
        assert 0 <= x <= size[1] - width
        after = paste.write(tf.constant(images), [(0, edit)]).numpy()[b]
        assert np.array_equal(
            after[top : top + height, left : left + width],
            images[b, y : y + height, x : x + width],
        )


@pytest.mark.parametrize(
    ("size", "area_ratio"), [((4096, 4096), (0.02, 0.15)), ((2048, 3072), (0.1, 0.3))]
)
def test_cutpaste_sizes_are_uniform_in_area_and_in_each_half_of_the_aspect_ratio(size, area_ratio):
    # Large images, so that rounding to whole pixels hardly shows.
    patch = paste.sample_patch(DRAWS, size, SEED, area_ratio)
    height, width = patch.height.numpy().astype(float), patch.width.numpy().astype(float)
    area, aspect = height * width / math.prod(size), height / width
    # Rounding moves values beyond the ends of the range by that much.
    reference.assert_uniform(np.clip(area, *area_ratio), *area_ratio)
    assert area_ratio[0] - 1e-4 < area.min() < area.max() < area_ratio[1] + 2e-4
    wide, tall = aspect[aspect < 1.0], aspect[aspect > 1.0]
    reference.assert_uniform(np.clip(wide, 0.3, 1.0), 0.3, 1.0)
    reference.assert_uniform(np.clip(tall, 1.0, 3.3), 1.0, 3.3)
    assert 0.299 < aspect.min() < aspect.max() < 3.31
    assert stats.binomtest(len(tall), len(tall) + len(wide)).pvalue > reference.LEAST_P
    reference.assert_unrelated(area, aspect)


@pytest.mark.parametrize("sample", [paste.sample_patch, paste.sample_scar])
def test_places_are_uniform(sample):
    # That they do not depend on each other or on the sizes is tested with all that is drawn.
    size = (256, 320)
    p = sample(DRAWS, size, SEED)
    for place, box in (("source", ""), ("target", "box_")):
        for axis, side in enumerate(("height", "width")):
            first, length = getattr(p, f"{place}_{'yx'[axis]}"), getattr(p, box + side)
            places = (first.numpy() + 0.5) / (size[axis] - length.numpy() + 1)
            reference.assert_uniform(places, 0.0, 1.0)


@pytest.mark.parametrize("kind", ["patch", "scar"])
def test_every_pixel_is_cut_and_pasted_sooner_or_later(kind, monkeypatch):
    # The corners included: a turned scar seldom fills its box's corners, so it takes many draws.
    size, batch = (16, 20), 20_000
    small = {"SCAR_WIDTH": (1, 2), "SCAR_LENGTH": (2, 4), "SCAR_SIDE": 5, "SCAR_PIXELS": 36}
    for name, value in small.items():
        monkeypatch.setattr(paste, name, value)
    augment = edits.cutpaste if kind == "patch" else edits.cutpaste_scar
    images = tf.constant(np.broadcast_to(reference.coded(1, *size), [batch, *size, 3]))
    pasted, cut = np.zeros(size, bool), np.zeros(size, bool)
    for step in range(3):
        edit = augment(images, tf.constant([2, step]), jitter=0.0)
        rows, columns, _ = reference.decode(edit.pixels)
        cut[rows, columns] = True
        pasted[np.divmod(edit.index.numpy(), size[1])] = True
    assert cut.all()
    assert pasted.all()


@pytest.mark.parametrize(
    "area_ratio", [(0.02, 0.1), (0.02, 0.15), (0.02, 0.3), (0.001, 0.003), (0.5, 1.0)]
)
@pytest.mark.parametrize("size", [(32, 32), (33, 57), (96, 32), (64, 64), (256, 256)])
def test_patch_pixels_is_never_exceeded_and_not_wasteful(size, area_ratio):
    # Densely over what can be drawn, by the definition of the two ratios.
    area = np.linspace(*area_ratio, 200)[:, None] * size[0] * size[1]
    area[-20:] = area_ratio[1] * size[0] * size[1]  # the extreme, at many aspect ratios
    aspect = np.concatenate([np.linspace(0.3, 1.0, 800), np.linspace(1.0, 3.3, 800)])[None]
    height = np.clip(np.rint(np.sqrt(area * aspect)), 1, size[0])
    width = np.clip(np.rint(np.sqrt(area / aspect)), 1, size[1])
    bound = paste.patch_pixels(size, area_ratio)
    assert (height * width).max() <= bound <= size[0] * size[1]
    drawn = paste.sample_patch(DRAWS, size, SEED, (area_ratio[1], area_ratio[1]))
    assert (drawn.height * drawn.width).numpy().max() <= bound
    assert bound <= 1.3 * area_ratio[1] * size[0] * size[1] + 4


# CutPaste-Scar.


@pytest.mark.parametrize("degrees", [-45.0, -30.0, -11.3, -0.01, 0.0, 0.4, 7.0, 22.5, 44.9, 45.0])
def test_scar_takes_the_nearest_source_pixel_and_has_no_holes(degrees):
    size, sides = (47, 56), itertools.product((2, 3, 6, 10, 25), (1, 2, 3, 7, 16))
    rectangles = [(height, width, math.radians(degrees)) for height, width in sides]
    edit = cut_and_check(patch_of(rectangles, size, np.random.default_rng(2)), size)
    for image, (height, width, _) in enumerate(rectangles):
        mask = reference.written(edit, image, size)
        assert reference.is_one_piece_without_holes(mask)
        # The lattice's own error, at most half a pixel along the edges.
        assert abs(mask.sum() - height * width) <= height + width


def test_thinnest_scar_has_pixels_at_every_angle():
    # Were no pixel's centre inside, the edit would have to paste something from outside.
    rectangles = [(2, 1, math.radians(degrees)) for degrees in np.linspace(-45.0, 45.0, 181)]
    cut_and_check(patch_of(rectangles, (16, 16), np.random.default_rng(3)), (16, 16), 9)


@FEW
@given(seed=SEEDS, size=SIZES)
def test_drawn_scars_lie_inside_and_are_turned_pixel_by_pixel(seed, size):
    patch = paste.sample_scar(BATCH, size, tf.constant(seed))
    cut_and_check(patch, size)
    for b in range(BATCH):
        p = one(patch, b)
        assert_inside(p, size)
        # The box is the smallest of whole pixels, up to a thousandth: no pixel's centre is lost.
        extent = reference.turned_extent(p["height"], p["width"], float(p["angle"]))
        for length, side in zip(extent, (p["box_height"], p["box_width"]), strict=True):
            assert side - 1 < length <= side + 2e-3


@pytest.mark.parametrize("augment", [edits.cutpaste, edits.cutpaste_scar])
@FEW
@given(seed=SEEDS, size=SIZES)
def test_all_of_the_patch_and_nothing_else_changes_with_jitter(augment, seed, size):
    images = noise(BATCH, *size, 3)
    edit = augment(tf.constant(images), tf.constant(seed))
    after = paste.write(tf.constant(images), [(0, edit)]).numpy()
    for b in range(BATCH):
        mask = reference.written(edit, b, size)
        assert np.array_equal(after[b][~mask], images[b][~mask])
        assert np.all((after[b] != images[b]).any(-1)[mask])
        if augment == edits.cutpaste:
            assert reference.is_box(mask)
        else:
            assert reference.is_one_piece_without_holes(mask)
            assert math.prod(reference.bounding_box(mask)[2:]) <= paste.SCAR_PIXELS
            assert edit.index.shape[1] == paste.SCAR_PIXELS


@pytest.mark.parametrize(
    ("height", "width", "degrees"),
    [(25, 7, 37.0), (25, 7, -37.0), (25, 7, 45.0), (29, 5, 20.0), (25, 5, -30.0)],
)
def test_scar_turns_the_same_way_as_pil(height, width, degrees):
    # PIL turns a canvas about its middle, so the rectangle has to lie in the middle of its turned
    # box: both have odd sides in these cases.
    angle = math.radians(degrees)
    box = reference.turned_box(height, width, angle)
    assert box[0] % 2 == box[1] % 2 == 1, "choose another case"
    size = (41, 41)
    middle = (size[0] - height) // 2, (size[1] - width) // 2
    corner = (size[0] - box[0]) // 2, (size[1] - box[1]) // 2
    patch = patch_of([(height, width, angle)], size, np.random.default_rng(0))
    places = ("source_y", "source_x", "target_y", "target_x")
    fields = dict(zip(places, middle + corner, strict=True))
    patch = patch._replace(**{name: tf.constant([value]) for name, value in fields.items()})
    picture = noise(*size, 3)
    edit = paste.cut(tf.constant(picture[None]), patch, box[0] * box[1], None)
    pasted = paste.write(tf.fill([1, *size, 3], -1.0), [(0, edit)]).numpy()[0, ..., 0]

    canvas = np.full(size, -1.0, np.float32)
    inside = slice(middle[0], middle[0] + height), slice(middle[1], middle[1] + width)
    canvas[inside] = picture[..., 0][inside]

    def agreement(degrees):
        turned = Image.fromarray(canvas).rotate(degrees, Image.Resampling.NEAREST, fillcolor=-1.0)
        either = (np.asarray(turned) >= 0) | (pasted >= 0)
        return np.mean(np.asarray(turned)[either] == pasted[either])

    assert agreement(degrees) > 0.97  # PIL computes in fixed point
    assert agreement(-degrees) < 0.5


@pytest.mark.parametrize("size", [(256, 256), (64, 64), (32, 300)])
def test_scar_sizes_are_the_papers_in_pixels_and_equally_frequent(size):
    patch = paste.sample_scar(DRAWS, size, SEED)
    reference.assert_equally_frequent(patch.width, range(2, 17))
    reference.assert_equally_frequent(patch.height, range(10, 26))
    reference.assert_uniform(patch.angle, -math.pi / 4, math.pi / 4)


def test_scar_pixels_and_side_are_never_exceeded_and_not_wasteful():
    angles = [math.radians(degrees) for degrees in range(46)]
    sides = itertools.product(range(10, 26, 3), range(2, 17), angles)
    boxes = np.array([reference.turned_box(*rectangle) for rectangle in sides])
    assert boxes.prod(1).max() <= paste.SCAR_PIXELS <= 1.35 * boxes.prod(1).max() + 8
    assert boxes.max() <= paste.SCAR_SIDE <= boxes.max() + 1
    # The smallest image that takes such scars.
    size = (paste.SCAR_SIDE, paste.SCAR_SIDE)
    drawn = paste.sample_scar(DRAWS, size, SEED)
    assert (drawn.box_height * drawn.box_width).numpy().max() <= paste.SCAR_PIXELS
    assert_inside({name: value.numpy() for name, value in drawn._asdict().items()}, size)
    with pytest.raises(ValueError, match="do not fit"):
        paste.sample_scar(4, (paste.SCAR_SIDE - 1, 64), SEED)


# The patch's jitter.


@pytest.mark.parametrize("kind", ["patch", "scar"])
def test_jitter_is_of_the_patch_alone(kind):
    # Strong and known, so that a mean grey of anything but the pasted pixels would show.
    rng = np.random.default_rng(4)
    size, orders = (48, 60), list(itertools.permutations(range(4)))
    factors = rng.uniform(0.4, 1.6, (24, 3)).astype(np.float32)
    turn = rng.uniform(-0.5, 0.5, 24).astype(np.float32)
    jitter = color.Jitter(tf.constant(orders), tf.constant(factors), tf.constant(turn))
    rectangles = [
        (h, w, rng.uniform(-0.78, 0.78) if kind == "scar" else None)
        for h, w in rng.integers(3, 20, (24, 2)).tolist()
    ]
    patch = patch_of(rectangles, size, rng)
    images = tf.constant(rng.uniform(0.0, 1.0, (24, *size, 3)).astype(np.float32))
    plain = paste.cut(images, patch, 900, None)
    jittered = paste.cut(images, patch, 900, jitter)
    assert np.array_equal(plain.index, jittered.index)
    for b in range(24):
        _, first = np.unique(plain.index[b], return_index=True)
        before, after = (edit.pixels[b].numpy()[first] for edit in (plain, jittered))
        expected = reference.jitter(before, orders[b], factors[b], float(turn[b]))
        np.testing.assert_allclose(after, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("augment", [edits.cutpaste, edits.cutpaste_scar])
@pytest.mark.parametrize("maximum", [0.1, 0.3])
def test_jitter_of_an_even_grey_patch_is_its_brightness(augment, maximum):
    # Contrast, saturation and hue change nothing there, as the mean grey is the patch's own. The
    # images' greys differ, so a mean over the batch would show.
    grey = np.linspace(0.3, 0.7, 600).astype(np.float32)
    images = tf.constant(np.broadcast_to(grey[:, None, None, None], [600, 36, 36, 3]))
    pixels = augment(images, SEED, jitter=maximum).pixels.numpy()
    assert np.ptp(pixels, axis=(1, 2)).max() < 1e-5
    reference.assert_uniform(pixels[:, 0, 0] / grey, 1.0 - maximum, 1.0 + maximum)


# Writing.


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [tf.float16, tf.float32])
def test_write_puts_each_edit_on_its_images_and_nothing_else(channels, dtype):
    rng = np.random.default_rng(5)
    images = rng.uniform(size=(7, 5, 4, channels)).astype(dtype.as_numpy_dtype)
    expected = images.copy()
    written = []
    for first, batch, number in [(0, 2, 3), (3, 3, 6)]:  # images 2 and 6 have none
        index = np.int32([rng.permutation(20)[:number] for _ in range(batch)])
        pixels = rng.uniform(2.0, 3.0, (batch, number, channels)).astype(dtype.as_numpy_dtype)
        # Each pixel several times, as lists are padded.
        often = [tf.constant(np.repeat(values, 4, axis=1)) for values in (index, pixels)]
        written.append((tf.constant(first), paste.Edit(*often)))
        for b, i in np.ndindex(batch, number):
            expected[first + b, index[b, i] // 4, index[b, i] % 4] = pixels[b, i]
    result = paste.write(tf.constant(images), written)
    assert result.dtype == dtype
    assert np.array_equal(result, expected)


def regions(size):
    """A strip at a border, a disc, two spots and a single pixel."""
    rows, columns = np.indices(size)
    strip, spots, pixel = np.zeros([3, *size], bool)
    strip[:, :5] = True
    spots[3:6, 4:8] = spots[-9:-2, -12:-4] = True
    pixel[size[0] // 2, size[1] // 3] = True
    disc = np.hypot(rows - size[0] / 2, columns - size[1] / 2) < min(size) / 3
    return np.stack([strip, disc, spots, pixel])


@pytest.mark.parametrize("scar", [False, True])
@FEW
@given(seed=SEEDS, size=SIZES)
def test_patches_are_moved_around_pixels_of_their_own_images_regions(scar, seed, size):
    region = np.repeat(regions(size), 8, axis=0)
    seed = tf.constant(seed)
    sample = paste.sample_scar if scar else paste.sample_patch
    patch = sample(len(region), size, seed)
    moved = paste.move_into(patch, paste.count_pixels(tf.constant(region)), size, seed)
    for name in ("height", "width", "angle", "box_height", "box_width"):
        assert getattr(moved, name) is getattr(patch, name)
    for image in range(len(region)):
        p = one(moved, image)
        assert_inside(p, size)
        for place, box in (("source", ""), ("target", "box_")):
            y, x = p[f"{place}_y"], p[f"{place}_x"]
            height, width = p[f"{box}height"], p[f"{box}width"]
            assert region[image, y : y + height, x : x + width].any()
            # Its middle is of the region, but where the border is in the way.
            free = 0 < y < size[0] - height and 0 < x < size[1] - width
            assert region[image, y + height // 2, x + width // 2] or not free


def test_all_pixels_of_a_region_are_as_likely():
    size, region = (32, 32), np.zeros([32, 32], bool)
    region[14:17, 10:14] = region[20, 20] = True
    counts = paste.count_pixels(tf.constant(np.repeat(region[None], DRAWS, axis=0)))
    patch = paste.sample_patch(DRAWS, size, SEED, (0.01, 0.02))
    moved = paste.move_into(patch, counts, size, SEED)
    middles = []
    for place, box in (("source", ""), ("target", "box_")):
        rows = getattr(moved, f"{place}_y") + getattr(moved, f"{box}height") // 2
        columns = getattr(moved, f"{place}_x") + getattr(moved, f"{box}width") // 2
        middles.append((rows * 32 + columns).numpy())
        values, times = np.unique(middles[-1], return_counts=True)
        assert values.tolist() == np.flatnonzero(region).tolist()
        assert stats.chisquare(times).pvalue > 1e-3
    reference.assert_unrelated(*middles)  # where it is cut and where it is pasted
