"""Names of files as text."""

import os
import pathlib

import pytest

from cutpaste_tf import names


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"bolt", "bolt"),
        ("Stra\u00dfe \u65e5\u672c $1".encode(), "Stra\u00dfe \u65e5\u672c $1"),
        (b"caf\xe9/\xff.png", "caf\\udce9/\\udcff.png"),
        ("a\ud800".encode("utf-8", "surrogatepass"), "a\\udced\\udca0\\udc80"),
    ],
)
def test_names_become_text_that_is_utf8(name, text):
    assert names.as_text(os.fsdecode(name)) == text
    assert names.as_text(pathlib.Path(os.fsdecode(name))) == text
    assert names.as_text(text) == text
    # As Python prints it on stderr.
    assert os.fsdecode(name).encode("utf-8", "backslashreplace") == text.encode()
