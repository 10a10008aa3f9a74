"""Files for TensorBoard's projector, read as TensorBoard reads them."""

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing import data_provider, event_multiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.projector import projector_plugin

from cutpaste_tf.draw import projector


def test_tensorboard_finds_points_columns_and_pictures(tmp_path):
    folder = tmp_path / "run"
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, 3))
    pictures = [np.full([90, 90, 3], 50 * i, np.uint8) for i in range(5)]
    columns = {"type": ["good", "a\tb", "c\nd", "e", "f"], "score": [1.25, "", 3.0, 4.0, 5.0]}
    projector.write(folder, features, columns, pictures)

    multiplexer = event_multiplexer.EventMultiplexer({"run": str(folder)})
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(tmp_path))
    context = base_plugin.TBContext(
        logdir=str(tmp_path), data_provider=provider, multiplexer=multiplexer
    )
    plugin = projector_plugin.ProjectorPlugin(context)
    plugin._update_configs()
    (info,) = plugin._configs["run"].embeddings
    assert list(info.tensor_shape) == [5, 3]
    assert list(info.sprite.single_image_dim) == [64, 64]
    # Each point in its place of the square, the last place empty.
    sprite = np.asarray(Image.open(folder / info.sprite.image_path))
    assert sprite.shape == (3 * 64, 3 * 64, 3)
    colors = [sprite[64 * (i // 3) + 5, 64 * (i % 3) + 5, 0] for i in range(6)]
    assert colors == [0, 50, 100, 150, 200, 255]
    points = np.loadtxt(folder / info.tensor_path, delimiter="\t")
    np.testing.assert_allclose(points, features, rtol=1e-5)
    lines = (folder / info.metadata_path).read_text().splitlines()
    assert lines == ["type\tscore", "good\t1.25", "a b\t", "c d\t3", "e\t4", "f\t5"]
