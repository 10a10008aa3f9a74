"""Tables that are added to, and what is left of them when that is cut short."""

import errno
import json
import os
import pathlib

import pytest
from arriving import rows

from cutpaste_tf.files import UserError
from cutpaste_tf.predict import ledger
from cutpaste_tf.predict.inbox import Arrival
from cutpaste_tf.predict.ledger import WATCHED, Ledger
from cutpaste_tf.predict.rows import AREA_COLUMNS, AREAS, COLUMNS, CSV, JSONL, Judged

INBOX = pathlib.Path("inbox")


def judged(name, score=0.1 + 0.2, areas=0):
    """A file's rows, its name as odd as it comes."""
    row = dict.fromkeys(COLUMNS) | {"path": f'{INBOX}/{name},\n"é.png', "score": score}
    row |= {"verdict": "normal", "threshold": 1.0}
    area = dict.fromkeys(AREA_COLUMNS, 1.5) | {"path": row["path"]}
    return Arrival(row["path"], (7, 8), 0.0), Judged(row, [area] * areas)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


def write(output, *names, areas=False):
    with Ledger(INBOX, output, areas) as opened:
        for name in names:
            opened.add([judged(name)])
        return opened.done


def names(output):
    return [row["path"][6] for row in rows(output)]


def test_tables_grow_and_who_comes_next_knows_what_is_done(output, monkeypatch, tmp_path):
    assert write(output) == {}
    assert names(output) == []
    assert write(output, "a", "b") == {}
    with Ledger(INBOX, output, False) as opened:
        assert opened.done == {judged(name)[0].path: (7, 8) for name in "ab"}
        opened.add([judged("c"), judged("d")])
        assert names(output) == list("abcd")  # while it is open
    assert rows(output)[0]["score"] == 0.1 + 0.2
    assert len((output / WATCHED).read_text().splitlines()) == 5
    # The same folder by another name, from elsewhere; and another folder.
    absolute = INBOX.absolute()
    monkeypatch.chdir(tmp_path)
    with Ledger(absolute, output, False) as opened:
        assert str(absolute) in min(opened.done)
        assert len(opened.done) == 4
    with Ledger(INBOX, output, False) as opened:
        assert opened.done == {}


def test_wherever_writing_is_cut_short_the_rest_is_whole(output):
    """Cuts the files at every byte, in the order in which they are written."""
    write(output, "a")
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    write(output, "b")
    after = {path.name: path.read_bytes() for path in output.iterdir()}
    write_order = [name for name in (JSONL, CSV, WATCHED)]
    for number, name in enumerate(write_order):
        for length in range(len(before[name]), len(after[name]), 7):
            for place, other in enumerate(write_order):
                whole = after[other] if place < number else before[other]
                (output / other).write_bytes(after[name][:length] if other == name else whole)
            assert len(write(output)) == 1
            assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    write(output, "c")
    assert names(output) == ["a", "c"]


def test_a_beginning_that_is_cut_short_is_made_again(output):
    write(output, areas=True)
    whole = {path.name: path.read_bytes() for path in output.iterdir()}
    for kept in ([], [CSV], [CSV, JSONL], [CSV, JSONL, AREAS]):
        for name in whole:
            (output / name).unlink(missing_ok=True)
        (output / WATCHED).touch()
        for name in kept:
            (output / name).write_bytes(whole[name][:9])
        write(output, areas=True)
        assert {path.name: path.read_bytes() for path in output.iterdir()} == whole


def test_areas_may_come_later_and_stay_away(output):
    write(output, "a")
    with Ledger(INBOX, output, True) as opened:
        opened.add([judged("b", areas=2), judged("c", areas=1)])
    table = (output / AREAS).read_bytes()
    assert table.count(b"1.5,1.5,1.5") == 3 * 2
    write(output, "d")
    assert (output / AREAS).read_bytes() == table
    (output / AREAS).write_bytes(table + b"half")
    assert len(write(output, areas=True)) == 4
    assert (output / AREAS).read_bytes() == table


@pytest.mark.parametrize("full", [WATCHED, CSV, JSONL])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_what_cannot_be_written_leaves_all_as_it_was(output, monkeypatch, full, error):
    write(output, "a")
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    whole = ledger._write

    def fail(file, data):
        if os.fspath(file.name).endswith(full):
            file.write(data[: len(data) // 2])
            raise error
        whole(file, data)

    with Ledger(INBOX, output, False) as opened:
        monkeypatch.setattr(ledger, "_write", fail)
        with pytest.raises(type(error)):
            opened.add([judged("b"), judged("c")])
        assert {path.name: path.read_bytes() for path in output.iterdir()} == before
        monkeypatch.undo()
        opened.add([judged("b")])  # There is room again.
    assert names(output) == ["a", "b"]


def test_tables_that_others_have_written_are_left_alone(output):
    output.mkdir()
    (output / CSV).write_text("earlier")
    with pytest.raises(UserError, match="was not written by --watch"):
        write(output)
    assert [path.name for path in output.iterdir()] == [CSV]


@pytest.mark.parametrize("change", [lambda text: b"", lambda text: text.upper() + b"more\n"])
def test_tables_that_were_changed_are_not_cut(output, change):
    write(output, "a", "b")
    changed = change((output / CSV).read_bytes())
    (output / CSV).write_bytes(changed)
    with pytest.raises(UserError, match=r"predictions.csv: .* put it back"):
        write(output)
    assert (output / CSV).read_bytes() == changed


def test_a_state_that_is_no_state_is_a_mistake(output):
    output.mkdir()
    for text in ("x\n", "[]\n", "{}\n", json.dumps({"ends": {}, "path": f"{INBOX.absolute()}/a"})):
        (output / WATCHED).write_text(text.rstrip() + "\n")
        with pytest.raises(UserError, match="is damaged"):
            write(output)
