"""What a training step does is done on the GPU, by TensorFlow's own lists of kernels."""

import keras
import kernels
import pytest
import tensorflow as tf
from conftest import slow_but
from training import config

from cutpaste_tf.augment import proxy
from cutpaste_tf.train import classifier
from cutpaste_tf.train import views as step_views


@pytest.fixture
def gpu(monkeypatch):
    """What is built is what a machine with a GPU would run."""
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [f"/{kind}:0"])
    yield
    keras.config.set_dtype_policy("float32")


def traced(views):
    """The pixels' half of a step's views, traced."""
    specs = [tf.TensorSpec(n.shape, n.dtype) for n in views.draw(0, 4)]
    images = tf.TensorSpec([4, 64, 64, 3], tf.uint8)
    return tf.function(views.make).get_concrete_function(images, *specs)


@pytest.mark.parametrize(
    ("task", "patch_size"),
    slow_but(
        [(task, size) for task in sorted(proxy.TASKS) for size in (0, 32)],
        ("cutpaste_3way", 32),
    ),
)
def test_where_there_is_a_gpu_all_pixels_are_made_on_it(task, patch_size, gpu):
    """The numbers that were drawn are followed as well: positions lie between pixels."""
    ranges = {"translation": 0.1, "view_jitter": (0.1, 0.2, 0.3)}
    settings = config(task=task, image_size=64, patch_size=patch_size, **ranges)
    function = traced(step_views.device_views(settings))
    for value in function.inputs:
        assert kernels.off_the_gpu(function, value) == []
    # Accelerators want static shapes.
    assert all(output.shape.is_fully_defined() for output in function.outputs)


def test_views_that_are_not_compiled_would_be_made_on_the_host():
    """What the test above looks for is found where it is."""
    function = traced(step_views.StepViews(config(image_size=64, translation=0.1)))
    of_pixels, of_numbers = (kernels.off_the_gpu(function, x) for x in function.inputs[:2])
    assert any(line.startswith("GatherV2: no GPU kernel for uint8") for line in of_pixels)
    assert any("in host memory" in line for line in of_numbers)


@pytest.mark.parametrize(
    "flags",
    slow_but(
        [
            {"backbone": "resnet18"},
            {"backbone": "resnet18", "mixed_precision": True},
            {"backbone": "efficientnet_b0", "width": 1.0, "head_steps": 1, "finetune_steps": 5},
        ],
        {"backbone": "resnet18"},
    ),
    ids=["resnet18", "mixed_precision", "efficientnet_b0"],
)
def test_a_whole_step_stays_on_the_gpu(flags, gpu):
    settings = config(image_size=64, task="cutpaste_3way", **flags)
    model = classifier.build_classifier(settings)
    numbers = model._views.draw(0, settings.batch_size)
    specs = [tf.TensorSpec(n.shape, n.dtype) for n in numbers]
    images = tf.TensorSpec([settings.batch_size, 64, 64, 3], tf.uint8)
    step = tf.function(model.train_step).get_concrete_function((images, *specs))
    assert kernels.off_the_gpu(step, step.inputs[0]) == []
