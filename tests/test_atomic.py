"""Files that are whole or not there."""

import pytest

from cutpaste_tf import atomic


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic.replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fault", [OSError, KeyboardInterrupt])
def test_what_was_there_stays_if_it_does_not_end_well(tmp_path, fault):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(fault), atomic.replacing(path) as temporary:
        temporary.write_text("ne")
        raise fault
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(fault), atomic.replacing(path):
        raise fault  # before anything is written
    assert path.read_text() == "old"
