"""Files of the old PyTorch format: tensors are read, and nothing else is done that they say."""

import pickle
import struct

import numpy as np
import pytest

from cutpaste_tf.models import torch_file


class Name:
    """Pickled as a name of another module, whatever is imported here."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickled as a call of a name."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments


class Stored:
    """Pickled as a persistent identity."""

    def __init__(self, *identity):
        self.identity = identity


def pickled(value):
    """Pickles (protocol 2) by hand what the standard library would insist on importing."""
    if isinstance(value, Name):
        return b"c" + f"{value.module}\n{value.name}\n".encode()
    if isinstance(value, Call):
        return pickled(value.name) + pickled(value.arguments) + b"R"
    if isinstance(value, Stored):
        return pickled(value.identity) + b"Q"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(pickled, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(pickled, value)) + b"e"
    if isinstance(value, dict):
        call = Call(Name("collections", "OrderedDict"))
        items = b"".join(pickled(k) + pickled(v) for k, v in value.items())
        return pickled(call) + b"(" + items + b"u"
    return pickle.dumps(value, 2)[2:-1]  # without its protocol and end


def dump(value):
    return b"\x80\x02" + pickled(value) + b"."


def stored(key, array, kind=None):
    kind = kind or {"f": "FloatStorage", "i": "LongStorage"}[array.dtype.kind]
    return Stored("storage", Name("torch", kind), key, "cpu", array.size, None)


def tensor(storage, offset, shape, stride):
    rebuild = Name("torch._utils", "_rebuild_tensor_v2")
    hooks = Call(Name("collections", "OrderedDict"))
    return Call(rebuild, storage, offset, shape, stride, False, hooks)


def write(path, tensors, numbers, magic=0x1950A86A20F9469CFC6C, version=1001):
    """Writes a file of tensors, and the numbers that they are of, by their keys."""
    system = {"protocol_version": 1001, "little_endian": True}
    heads = [magic, version, system, tensors, list(numbers)]
    content = b"".join(map(dump, heads))
    for array in numbers.values():
        content += struct.pack("<q", array.size) + array.tobytes()
    path.write_bytes(content)
    return path


def read(path):
    with open(path, "rb") as file:
        return torch_file.read(file)


NUMBERS = {
    "7": np.arange(12, dtype=np.float32),
    "3": np.array([5], np.int64),
}


def test_tensors_of_any_stride_are_read(tmp_path):
    whole, count = stored("7", NUMBERS["7"]), stored("3", NUMBERS["3"])
    tensors = {
        "rows": tensor(whole, 0, (3, 4), (4, 1)),
        "columns": tensor(whole, 0, (4, 3), (1, 4)),
        "part": tensor(whole, 2, (2, 3), (4, 1)),
        "count": tensor(count, 0, (), ()),
    }
    found = read(write(tmp_path / "a.pth", tensors, NUMBERS))
    rows = NUMBERS["7"].reshape(3, 4)
    np.testing.assert_array_equal(found["rows"], rows)
    np.testing.assert_array_equal(found["columns"], rows.T)
    np.testing.assert_array_equal(found["part"], [[2, 3, 4], [6, 7, 8]])
    assert found["count"].shape == ()
    assert found["count"] == 5
    assert {name: value.dtype.name for name, value in found.items()} == {
        "rows": "float32",
        "columns": "float32",
        "part": "float32",
        "count": "int64",
    }


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (1, (3, 4), (4, 1)),
        (0, (3, 4), (5, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2,), ()),
        (0, (-2, -2), (1, 1)),
        (0, (2**40,), (0,)),
        (0, (2**40, 2**40), (0, 0)),
        (12, (1,), (1,)),
    ],
)
def test_tensors_beyond_their_numbers_are_refused(tmp_path, offset, shape, stride):
    tensors = {"a": tensor(stored("7", NUMBERS["7"]), offset, shape, stride)}
    path = write(tmp_path / "a.pth", tensors, {"7": NUMBERS["7"]})
    with pytest.raises(ValueError, match="it has a tensor"):
        read(path)


def test_nothing_that_a_file_names_is_called(tmp_path):
    target = tmp_path / "written"
    for call in (
        Call(Name("os", "mkdir"), str(target)),
        Call(Name("builtins", "eval"), f"open({str(target)!r}, 'w')"),
        Call(Name("numpy.core.multiarray", "scalar"), 1),
        Call(Name("torch", "DoubleStorage"), 1),
        Call(Name("collections", "OrderedDict.fromkeys"), [1]),
    ):
        path = write(tmp_path / "a.pth", {"a": call}, {})
        with pytest.raises(ValueError, match="it names"):
            read(path)
    assert not target.exists()


@pytest.mark.parametrize(
    "identity",
    [
        ("storage", "f8", "7", "cpu", 12, None),
        ("storage", Name("torch", "FloatStorage"), (1, 2), "cpu", 12, None),
        ("storage", Name("torch", "FloatStorage"), "7", "cpu", -1, None),
        ("storage", Name("torch", "FloatStorage"), "7", "cpu", 12, (0, 1)),
        ("module", Name("torch", "FloatStorage"), "7", "cpu", 12, None),
    ],
)
def test_storages_of_anything_else_are_refused(tmp_path, identity):
    tensors = {"a": tensor(Stored(*identity), 0, (12,), (1,))}
    with pytest.raises(ValueError, match="other than tensors"):
        read(write(tmp_path / "a.pth", tensors, {"7": NUMBERS["7"]}))


def test_a_file_cannot_change_this_module(tmp_path):
    """BUILD with a pair as its state sets attributes of what a name stands for."""
    content = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(N}X\x05\x00\x00\x00shapeK\x01stb."
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a file of tensors"):
        read(path)
    assert torch_file._Tensor.shape != 1


def test_damaged_and_foreign_files_are_refused(tmp_path):
    tensors = {"a": tensor(stored("7", NUMBERS["7"]), 0, (12,), (1,))}
    path = tmp_path / "a.pth"
    whole = write(path, tensors, {"7": NUMBERS["7"]}).read_bytes()
    assert list(read(path)) == ["a"]
    rng = np.random.default_rng(0)
    for length in [0, 1, *rng.integers(2, len(whole) - 1, 40)]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="."):
            read(path)
    for content in (b"PK\x03\x04", b"\x80\x02K\x01.", dump({"a": 1}) * 5, b"\x89HDF\r\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="."):
            read(path)
    with pytest.raises(ValueError, match="format"):
        read(write(path, tensors, {"7": NUMBERS["7"]}, version=1002))
    with pytest.raises(ValueError, match="belong"):
        read(write(path, tensors, {"8": NUMBERS["7"]}))
    with pytest.raises(ValueError, match="belong"):
        read(write(path, tensors, {"7": NUMBERS["7"][:5]}))
