"""Reads the tensors of a file that `torch.save` wrote before PyTorch 1.6, without PyTorch.

Such a file is a series of pickles, and whoever unpickles a foreign file runs whatever it says. So
this reader knows tensors and nothing else.
"""

import collections
import math
import pickle
from typing import Any, BinaryIO, NamedTuple

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001


class _Storage(NamedTuple):
    """Numbers that follow the pickles, under a key."""

    key: str
    dtype: str
    size: int


class _Tensor(NamedTuple):
    """A part of a storage, with the arguments of PyTorch's own function."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    requires_grad: bool = False
    hooks: Any = None


_TYPES = ("<f4", "<i8")
# All that a file may name: this, and those with what stands for them here.
_REBUILD = ("torch._utils", "_rebuild_tensor_v2")
_ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "FloatStorage"): "<f4",
    ("torch", "LongStorage"): "<i8",
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == _REBUILD:
            return self._tensor  # A method, unlike a class, has no attributes that a file can set.
        if (module, name) not in _ALLOWED:
            raise ValueError(f"it names {module}.{name}")
        return _ALLOWED[module, name]

    def _tensor(self, *arguments: Any) -> _Tensor:
        return _Tensor(*arguments)

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, size, view = pid
        known = kind == "storage" and dtype in _TYPES and view is None
        if not known or not isinstance(key, str) or not isinstance(size, int) or size < 0:
            raise ValueError("it has something other than tensors")
        return _Storage(key, dtype, size)


def read(file: BinaryIO) -> dict[str, np.ndarray]:
    """Reads a file of tensors.

    Nothing that it says is executed, but a hostile one may take memory or time without end: check
    first what it is, as `lite_weights` does.

    Args:
      file: what `torch.save(model.state_dict(), file)` wrote, in the format of before PyTorch 1.6.

    Returns:
      The tensors by their names, float32 or int64.

    Raises:
      ValueError: if the file is damaged, of another format, or has anything but tensors of
        float32 and int64 in it.
    """
    try:
        return _tensors(file)
    except ValueError:
        raise
    # A damaged or hostile pickle makes the unpickler raise almost anything.
    except Exception as error:
        raise ValueError(f"not a file of tensors ({type(error).__name__}: {error})") from error


def _tensors(file: BinaryIO) -> dict[str, np.ndarray]:
    magic, version, _, tensors, keys = (_Unpickler(file).load() for _ in range(5))
    if (magic, version) != (_MAGIC, _VERSION):
        raise ValueError("not a file of PyTorch's format of before its version 1.6")
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    if sorted(keys) != sorted(storages):
        raise ValueError("its tensors and its numbers do not belong together")
    numbers = {key: _numbers(file, storages[key]) for key in keys}
    return {name: _array(tensor, numbers[tensor.storage.key]) for name, tensor in tensors.items()}


def _numbers(file, storage):
    """The next numbers, which have to be the storage's."""
    if np.frombuffer(file.read(8), "<i8").tolist() != [storage.size]:
        raise ValueError("its tensors and its numbers do not belong together")
    content = file.read(storage.size * np.dtype(storage.dtype).itemsize)
    array = np.frombuffer(content, storage.dtype)
    if len(array) != storage.size:
        raise ValueError("it ends too early")
    return array


def _array(tensor, numbers):
    shape, stride = tensor.shape, tensor.stride
    if len(shape) != len(stride) or min(tensor.offset, *shape, *stride, 0) < 0:
        raise ValueError("it has a tensor of an impossible shape")
    last = tensor.offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    # No array is larger than its storage.
    if math.prod(shape) > len(numbers) or last >= len(numbers):
        raise ValueError("it has a tensor that is larger than its numbers")
    strides = [step * numbers.itemsize for step in stride]
    view = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], shape, strides)
    return np.ascontiguousarray(view).reshape(shape)
