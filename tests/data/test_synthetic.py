"""Test sets of synthetic anomalies."""

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf
import tensorflow_datasets as tfds
from conftest import pattern, slow_but

from cutpaste_tf.choices import TEST_ANOMALIES
from cutpaste_tf.data import download, pipeline, synthetic
from cutpaste_tf.files import UserError

DIGITS = tf.constant(np.pad(np.ones([1, 4, 4], np.float32), [(0, 0), (2, 2), (2, 2)]))


@pytest.fixture(scope="module")
def good():
    rng = np.random.default_rng(0)
    return pipeline.of_arrays([pattern(rng) for _ in range(70)], 48)


@pytest.mark.parametrize("kind", slow_but(list(TEST_ANOMALIES), "mnist", "square", "heart_natural"))
def test_one_anomaly_is_made_of_each_normal_image(good, kind):
    before, after = (x.stored.numpy()[:, 0] for x in (good, synthetic.make(kind, good, 3, DIGITS)))
    changed = (before != after).any(-1)
    shares = changed.mean((1, 2))
    assert 0.0 < shares.min() < shares.max() < 0.16
    colors = {
        tuple(after[i][changed[i]][0])
        for i in range(70)
        if np.ptp(after[i][changed[i]], axis=0).max() == 0
    }
    # One colour each, all images others; photographs have many.
    assert len(colors) > 60 if "natural" not in kind else len(colors) < 5

    again = synthetic.make(kind, good, 3, DIGITS)
    np.testing.assert_array_equal(again.stored.numpy()[:, 0], after)
    other = synthetic.make(kind, good, 4, DIGITS).stored.numpy()[:, 0]
    assert ((other != before).any(-1) != changed).any((1, 2)).all()
    # The second batch of images does not have the first one's shapes.
    assert (changed[64:] != changed[:6]).any((1, 2)).all()


def test_there_must_be_normal_images():
    images = pipeline.of_arrays([], 32)
    with pytest.raises(UserError, match="--test_anomalies=heart: .* there are none"):
        synthetic.make("heart", images, 0)


def test_digits_are_mnists_where_they_can_be_had(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(download, "is_reachable", lambda server: False)
    small, whose = synthetic.digits()
    assert whose == synthetic.SMALL_DIGITS
    expected = sklearn.datasets.load_digits().images / 16.0
    np.testing.assert_allclose(small, expected)

    monkeypatch.setattr(download, "is_reachable", lambda server: True)
    with tfds.testing.mock_data(num_examples=5):
        monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", lambda *a, **k: None)
        found, whose = synthetic.digits()
    assert whose == synthetic.MNIST
    assert found.shape == (5, 28, 28)
    assert 0 <= found.numpy().min() <= found.numpy().max() <= 1


def test_photographs_are_natural_and_large_enough():
    for size in (32, 500):
        found = synthetic._photographs((size, size)).numpy()
        assert found.shape[0] == 2
        assert min(found.shape[1:3]) >= size
        assert found.std() > 0.1
    small = synthetic._photographs((32, 32)).numpy()
    expected = np.stack(sklearn.datasets.load_sample_images().images) / 255.0
    np.testing.assert_allclose(small, expected, atol=1e-6)
