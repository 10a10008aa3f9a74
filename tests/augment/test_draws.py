"""No drawn quantity depends on another: of one image, of two of a batch, or of two steps."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from conftest import slow_but
from scipy import stats

from cutpaste_tf.augment import proxy

IMAGES = 4000
SIDE = 64
BINS = 6
# Some 100,000 pairs are looked at, each in two ways; with fixed seeds.
LEAST_P = 1e-8
RANGES = proxy.Settings(area_ratio=(0.02, 0.06), translation=0.05, view_jitter=(0.1, 0.2, 0.3))
SETTINGS = {
    "whole": RANGES,
    "region": RANGES,
    "patch": dataclasses.replace(RANGES, patch_size=SIDE),
}
BLOCK = 10  # pixels of the side of an image's region, which is somewhere about the middle


def quantities(drawn, rng, block=None):
    """What was drawn for each image, [N] by name; block: the top left pixel of each's region.

    A place is taken for its share of the places that there are, so that it does not depend on the
    size. Less than a pixel is added, so that all shares are as likely.
    """
    view, edits, _ = drawn
    columns = {}

    def spread(numbers):
        """Whole numbers as real ones that round down to them."""
        return numbers + rng.uniform(size=IMAGES)

    def add_channels(name, values):
        columns.update({f"{name} {k}": values.numpy()[:, k] for k in range(3)})

    def add_jitter(name, jitter):
        columns[f"{name} order"] = spread(jitter.order.numpy() @ [64, 16, 4, 1])
        add_channels(f"{name} factor", jitter.factors)
        if jitter.hue is not None:
            columns[f"{name} hue"] = jitter.hue.numpy()

    def add_patch(name, patch, view):
        p = {k: None if value is None else value.numpy() for k, value in patch._asdict().items()}
        # Sides are whole pixels: what rounding took is anything up to a half.
        height, width = (p[key] + rng.uniform(-0.5, 0.5, IMAGES) for key in ("height", "width"))
        sides = {"height": height, "width": width, "angle": p["angle"]}
        if p["angle"] is None:
            sides = {"area": height * width, "aspect": height / width}
        columns.update({f"{name} {key}": value for key, value in sides.items()})
        for axis, length in enumerate(("height", "width")):
            for place, side in (("source", p[length]), ("target", p[f"box_{length}"])):
                first = p[f"{place}_{'yx'[axis]}"]
                count = SIDE - side + 1
                if block is not None:
                    # The region moves with the image.
                    first = first + side // 2 - (block[axis] - view.corner[axis].numpy())
                    count = BLOCK
                assert np.all((first >= 0) & (first < count))
                columns[f"{name} {place} {'yx'[axis]}"] = spread(first) / count

    for axis, corner in enumerate(view.corner):
        columns[f"view {'yx'[axis]}"] = spread(corner.numpy())
    add_jitter("view", view.jitter)
    for number, edit in enumerate(edits):
        if edit is None:
            continue
        parts = [edit]
        if len(edit) == 3:
            columns["choice"] = spread(edit[0].numpy())
            parts = edit[1:]
        for part, (patch, other) in enumerate(parts):
            name = f"edit {number}.{part}"
            add_patch(name, patch, view)
            add = add_channels if isinstance(other, tf.Tensor) else add_jitter
            add(name, other)
    return columns


def assert_independent(columns):
    """No two columns are related, in their ranks or in any way that `BINS` classes of each show."""
    names, ranks = list(columns), np.stack([stats.rankdata(x) for x in columns.values()])
    count = ranks.shape[1]
    # Spearman's correlation of independent columns is nearly normal, with this deviation.
    rank_p = 2.0 * stats.norm.sf(np.abs(np.corrcoef(ranks)) * np.sqrt(count - 1))
    classes = np.minimum((ranks - 0.5) * BINS // count, BINS - 1).astype(int)
    each = np.eye(BINS)[classes]  # [Q, N, BINS]
    times = np.einsum("inb,jnc->ijbc", each, each, optimize=True)
    total = each.sum(axis=1)
    expected = total[:, None, :, None] * total[None, :, None, :] / count
    chi_square = ((times - expected) ** 2 / expected).sum(axis=(2, 3))
    bin_p = stats.chi2.sf(chi_square, (BINS - 1) ** 2)
    p = np.minimum(rank_p, bin_p)
    related = [
        f"{names[i]} and {names[j]}: {p[i, j]:.1g}" for i, j in np.argwhere(p < LEAST_P) if i < j
    ]
    assert not related, related


@pytest.mark.parametrize("kind", slow_but(list(SETTINGS), "region"))
@pytest.mark.parametrize(
    "task", slow_but(list(proxy.TASKS), "cutpaste_3way", "rotation", "confetti")
)
def test_no_drawn_quantity_depends_on_another(task, kind):
    settings, rng = SETTINGS[kind], np.random.default_rng(0)
    size = (SIDE + 8, SIDE + 12) if kind == "patch" else (SIDE, SIDE)
    block = region = None
    if kind == "region":
        # Far enough from the border that no patch is held up by it.
        block = rng.integers(22, 33, (2, IMAGES))
        at = np.arange(SIDE) - block[..., None]
        rows, columns = (at >= 0) & (at < BLOCK)
        region = tf.constant(rows[:, :, None] & columns[:, None, :])
    seeds = tf.constant([[3, 5], [3, 6]])
    drawn = [proxy.draw_views(IMAGES, size, task, seed, settings, region) for seed in seeds]
    step, next_step = (quantities(one, rng, block) for one in drawn)
    columns = {name: values[:-1] for name, values in step.items()}
    columns |= {f"next image's {name}": values[1:] for name, values in step.items()}
    columns |= {f"next step's {name}": values[:-1] for name, values in next_step.items()}
    assert_independent(columns)
