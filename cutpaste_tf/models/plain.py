"""Copies networks to ones of Keras's own layers alone, or to float32."""

from collections.abc import Iterator

import keras

from cutpaste_tf.models.norm import FusedBatchNormalization


def as_keras(model: keras.Model) -> keras.Model:
    """Returns a functional model of Keras's own layers alone, with the same weights."""
    own, keras_own = FusedBatchNormalization, keras.layers.BatchNormalization
    if not any(type(layer) is own for layer in all_layers(model)):
        return model
    return _copy(model, lambda layer: keras_own if type(layer) is own else type(layer), {})


def in_float32(model: keras.Model) -> keras.Model:
    """Returns a functional model that computes in float32, with the same weights."""
    computing = [x for x in all_layers(model) if not isinstance(x, keras.layers.InputLayer)]
    if all(layer.compute_dtype == "float32" for layer in computing):
        return model
    return _copy(model, type, {"dtype": "float32"})


def _copy(model, kind, settings):
    def copy(layer):
        return kind(layer).from_config({**layer.get_config(), **settings})

    copied = keras.models.clone_model(model, clone_function=copy, recursive=True)
    copied.set_weights(model.get_weights())
    return copied


def all_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yields all layers of a model, and those of models inside it."""
    for layer in model.layers:
        yield from all_layers(layer) if isinstance(layer, keras.Model) else [layer]
