"""A folder that is watched, as who drops images into it sees it; most of it without TensorFlow."""

import csv
import errno
import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import types

import arriving
import pytest
from arriving import Mean, put, rows
from conftest import ROOT

from cutpaste_tf.files import UserError, say
from cutpaste_tf.predict import __main__ as predict
from cutpaste_tf.predict import folder, watch
from cutpaste_tf.predict.inbox import Arrival
from cutpaste_tf.predict.rows import AREA_COLUMNS, COLUMNS, Judge, Judged
from cutpaste_tf.predict.watch import Journal

MEAN = (sys.executable, arriving.__file__)


class Process:
    """A watch in a process of its own, that is there when it has begun."""

    def __init__(self, *command, **options):
        self.process = subprocess.Popen(
            [*map(str, command)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        self.before = []
        for line in self.process.stdout:
            self.before.append(line)
            if line.startswith("watching "):
                return
        raise AssertionError(self.process.communicate()[1])

    def line(self):
        return self.process.stdout.readline().split()

    def end(self, number=signal.SIGTERM):
        """Returns the exit status and what was printed since."""
        self.process.send_signal(number)
        output, error = self.process.communicate(timeout=60)
        return self.process.returncode, output, error


@pytest.fixture
def inbox(tmp_path):
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


def test_images_are_scored_as_they_come_and_the_next_watch_goes_on(inbox, output):
    put(inbox, "a.png", 20)
    watched = Process(*MEAN, inbox, output)
    assert watched.before == [
        f"{inbox}: threshold 100 (given); on paper\n",
        f"watching {inbox}; stop with Ctrl-C\n",
    ]
    assert watched.line() == ["normal", "20", str(inbox / "a.png")]
    assert watched.process.poll() is None
    put(inbox / "deep" / "er", "b.png", 150)
    assert watched.line() == ["anomalous", "150", str(inbox / "deep" / "er" / "b.png")]
    put(inbox, "a.png", 30)
    assert watched.line() == ["normal", "30", str(inbox / "a.png")]
    ended = "ended; 3 images, 1 anomalous, 0 with an error\n"
    assert watched.end() == (0, ended, "")
    assert [row["score"] for row in rows(output)] == [20, 150, 30]

    put(inbox, "c.png", 40)
    # A shell has what it starts in the background ignore the signal, the tests included.
    options = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    watched = Process(*MEAN, inbox, output, **options)
    assert watched.line() == ["normal", "40", str(inbox / "c.png")]
    interrupted = "interrupted; 1 images, 0 anomalous, 0 with an error\n"
    assert watched.end(signal.SIGINT) == (130, "", interrupted)
    assert [row["score"] for row in rows(output)] == [20, 150, 30, 40]
    assert sorted(path.name for path in output.iterdir()) == [
        "predictions.csv",
        "predictions.jsonl",
        "watch.lock",
    ]


def test_files_that_would_harm_are_rows_and_formulas_are_texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("in").mkdir()
    put(pathlib.Path(), "=1+1.png", 30)
    os.mkfifo("in/fifo.png")
    with open("in/huge.png", "wb") as file:
        file.truncate(20 * 10**9)
    summary = folder.predict(
        Mean(), ["=1+1.png", "in"], pathlib.Path("out"), count=2, batch_size=8, log=say
    )
    assert (summary.images, summary.scored, summary.failed) == (2, 1, 1)
    with open("out/predictions.csv", newline="", encoding="utf-8") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["'=1+1.png", "in/huge.png"]
    lines = pathlib.Path("out/predictions.jsonl").read_text().splitlines()
    found = list(map(json.loads, lines))
    assert [row["path"] for row in found] == ["=1+1.png", "in/huge.png"]
    assert found[1]["error"].startswith("too large a file; ")


def done(output):
    """Returns the stamps of the files that are done, by their paths, while more may be added."""
    try:
        text = (output / "predictions.jsonl").read_text()
    except FileNotFoundError:
        return {}
    lines = map(json.loads, text[: text.rfind("\n") + 1].splitlines())
    return {one["path"]: (one["size"], one["mtime_ns"]) for one in lines}


def watch_until(inbox, output, holds, log=lambda text: None):
    """Watches a folder in this process until something holds."""

    def stop():
        deadline = time.monotonic() + 30
        while not holds() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    stopping = threading.Thread(target=stop)

    def begin(text):
        if text.startswith("watching "):
            stopping.start()
        log(text)

    before = signal.getsignal(signal.SIGTERM)
    assert watch.watch(inbox, output, Mean(), log=begin) == 0
    assert signal.getsignal(signal.SIGTERM) == before
    stopping.join()


def scored(output):
    return [pathlib.Path(row["path"]).name for row in rows(output)]


def test_a_broken_file_is_a_row_and_one_that_gets_whole_is_none(inbox, output, monkeypatch):
    monkeypatch.setattr("cutpaste_tf.predict.inbox._BROKEN", 0.5)
    (inbox / "a.png").write_bytes(b"nothing")
    said = []
    watch_until(inbox, output, lambda: len(done(output)) == 1, said.append)
    (row,) = rows(output)
    assert row["score"] is row["verdict"] is None
    assert row["error"] == "not an image of a known format"
    assert said[2:] == [
        f"error                 {inbox / 'a.png'}: {row['error']}",
        "ended; 1 images, 0 anomalous, 1 with an error",
    ]
    broken = done(output)[str(inbox / "a.png")]
    put(inbox, "a.png", 70)
    watch_until(inbox, output, lambda: done(output).get(str(inbox / "a.png")) != broken)
    assert rows(output)[1]["score"] == 70


def test_a_name_that_is_not_utf8_is_a_row_once(inbox, output, monkeypatch):
    monkeypatch.setattr("cutpaste_tf.predict.inbox._BROKEN", 0.1)
    put(inbox, os.fsdecode(b"\xff.png"), 1)
    watch_until(inbox, output, lambda: len(done(output)) == 1)
    put(inbox, "a.png", 1)
    watch_until(inbox, output, lambda: len(done(output)) == 2)
    assert scored(output) == ["\\udcff.png", "a.png"]


def test_a_full_disk_loses_nothing(inbox, output):
    """Writing past a limit is the same to a process as a full disk, but for the reason."""
    for number in range(40):
        put(inbox, f"{number:02}.png", number)

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    full = subprocess.run(
        [*MEAN, str(inbox), str(output)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=60,
    )
    assert full.returncode == 2
    assert full.stderr.startswith(f"error: --output={output}: cannot be written (File too large);")
    assert 0 < len(done(output)) < 40
    watch_until(inbox, output, lambda: len(done(output)) == 40)
    assert sorted(scored(output)) == sorted(p.name for p in inbox.iterdir())


def test_tables_are_those_of_the_lines_wherever_a_watch_was_cut_short(inbox, output):
    for number in range(3):
        put(inbox, f"{number}.png", number)
    watch_until(inbox, output, lambda: len(done(output)) == 3)
    lines = (output / "predictions.jsonl").read_bytes()
    first = lines.splitlines(keepends=True)[0]
    for cut in range(len(first), len(lines), 97):
        (output / "predictions.jsonl").write_bytes(lines[:cut])
        (output / "predictions.csv").write_bytes(b"half a")
        with Journal(output, Mean()) as journal:
            whole = lines[:cut].count(b"\n")
            assert len(journal.done) == len(rows(output)) == whole


def test_areas_are_in_the_lines_and_in_their_own_table(output):
    scale = types.SimpleNamespace(outlined=True)
    model = types.SimpleNamespace(scale=scale)
    row = dict.fromkeys(COLUMNS) | {"path": 'a,\n"é.png', "score": 0.1 + 0.2}
    area = dict.fromkeys(AREA_COLUMNS[1:], 0.1 + 0.2)
    output.mkdir()
    with Journal(output, model) as journal:
        journal.add([(Arrival(pathlib.Path("a"), (7, 8)), Judged(row, [area, area]))])
        table = (output / "areas.csv").read_bytes()
    assert table.count(repr(0.1 + 0.2).encode()) == 2 * 7
    (output / "areas.csv").unlink()
    with Journal(output, model) as journal:
        assert journal.done == {row["path"]: (7, 8)}
    assert (output / "areas.csv").read_bytes() == table
    assert rows(output) == [row]


@pytest.mark.parametrize("text", ['{"path": "a.png", "score": 1.0}', "x", "[]"])
def test_tables_that_others_have_written_are_left_alone(inbox, output, text):
    output.mkdir()
    (output / "predictions.jsonl").write_text(f"{text}\n")
    (output / "predictions.csv").write_text("earlier")
    with pytest.raises(UserError, match="was not written by --watch"):
        watch.watch(inbox, output, Mean(), log=print)
    assert (output / "predictions.csv").read_text() == "earlier"
    assert (output / "predictions.jsonl").read_text() == f"{text}\n"
    assert not list(output.glob("*.tmp"))


def test_overlays_that_cannot_be_written_end_it(inbox, output, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    put(inbox, "a.png", 1)
    monkeypatch.setattr(Judge, "_judge", full)
    with pytest.raises(OSError, match="No space left"):
        watch.watch(inbox, output, Mean(), log=print)
    assert rows(output) == []


def test_a_second_watch_with_the_same_output_is_refused(inbox, output, tmp_path):
    first = Process(*MEAN, inbox, output)
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="another --watch writes there"):
        watch.watch(tmp_path / "other", output, Mean(), log=print)
    assert first.end()[0] == 0


def test_the_same_files_are_known_from_elsewhere(inbox, output, monkeypatch):
    put(inbox, "a.png", 1)
    monkeypatch.chdir(inbox.parent)
    said = []
    watch_until("inbox", "out", lambda: len(done(output)) == 1, said.append)
    assert said[2] == "normal             1  inbox/a.png"
    monkeypatch.chdir(inbox)
    put(inbox, "b.png", 2)
    watch_until(".", "../out", lambda: len(done(output)) == 2)
    assert [row["path"] for row in rows(output)] == [str(inbox / "a.png"), str(inbox / "b.png")]


def test_flags_that_do_not_go_together_are_a_line(tmp_path, capsys):
    maps = tmp_path / "maps" / "deep"
    for place in (tmp_path / "in", tmp_path / "watched", maps):
        place.mkdir(parents=True)
    (tmp_path / "watched" / "predictions.jsonl").write_text('{"path": "a", "mtime_ns": 1}\n')
    one = ["--run=r", f"--images={tmp_path / 'in'}"]
    out = f"--output={tmp_path / 'out'}"
    for arguments, message in (
        ([out, one[1]], "one of the arguments --run --model is required"),
        ([out, one[0]], "required: --images"),
        ([out, "--watch", *one, one[1]], "--watch needs one folder"),
        ([out, "--watch", "--run=r", f"--images={tmp_path}/none"], "--watch needs one folder"),
        ([out, "--watch", "--run=r", f"--images={predict.__file__}"], "--watch needs one folder"),
        ([f"--output={tmp_path}", "--watch", one[0], f"--images={maps}"], "is where overlays"),
        ([out, "--watch", *one], "has the run finished?"),
        ([f"--output={tmp_path / 'watched'}", *one], "has the tables of a --watch"),
    ):
        assert predict.main(["predict", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("load_once")
def test_a_watch_has_the_rows_that_predict_has(finished, tmp_path, capsys):
    run_dir, data, _ = finished
    images, once, watched = data / "test" / "hole", tmp_path / "once", tmp_path / "watched"
    arguments = ["predict", f"--run={run_dir}", f"--images={images}", "--threshold=3"]
    assert predict.main([*arguments, f"--output={once}"]) == 0
    capsys.readouterr()

    def stop():
        deadline = time.monotonic() + 60
        while len(done(watched)) < 4 and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    stopping = threading.Thread(target=stop)
    stopping.start()
    assert predict.main([*arguments, "--watch", f"--output={watched}"]) == 0
    stopping.join()
    assert "ended; 4 images" in capsys.readouterr().out
    ours, theirs = (sorted(rows(one), key=lambda row: row["path"]) for one in (watched, once))
    for row, other in zip(ours, theirs, strict=True):
        assert row == other | {"score": pytest.approx(other["score"], rel=1e-5)}


def kill_and_start_again(inbox, output, command, kills, files, pause):
    """Kills a watch at random moments while files arrive.

    Every fifth file takes another's place; grey `number` is in the file of that number.

    Returns:
      The latest number of each name, and of each the rows' in their order.
    """
    chance = random.Random(0)
    latest, number = {}, 0
    for kill in range(kills + 1):
        watched = Process(*command, inbox, output)
        for _ in range(files):
            name = chance.choice(list(latest)) if number % 5 == 4 else f"{number}.png"
            latest[name] = number
            put(inbox, name, number)
            number += 1
            time.sleep(chance.random() * pause)
        if kill < kills:
            watched.process.kill()
            watched.process.communicate()

    states = [(str(path), path.stat()) for path in inbox.iterdir()]
    stamps = {path: (state.st_size, state.st_mtime_ns) for path, state in states}
    deadline = time.monotonic() + 60
    while done(output) != stamps and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)  # in which nothing may come any more
    assert watched.end()[0] == 0
    return latest


def test_no_file_is_lost_or_scored_twice_over_two_kills(inbox, output):
    latest = kill_and_start_again(inbox, output, MEAN, kills=2, files=20, pause=0.05)
    found = [(pathlib.Path(row["path"]).name, row["score"]) for row in rows(output)]
    assert len(set(found)) == len(found)
    assert dict(found) == latest


@pytest.mark.slow
def test_no_file_is_lost_or_scored_twice_over_many_kills(inbox, output):
    latest = kill_and_start_again(inbox, output, MEAN, kills=20, files=10, pause=0.1)
    found = [(pathlib.Path(row["path"]).name, row["score"]) for row in rows(output)]
    assert len(set(found)) == len(found)
    assert dict(found) == latest


@pytest.mark.slow
def test_no_file_is_lost_or_scored_twice_by_a_run_that_is_killed(finished, inbox, tmp_path):
    """With overlays, which are drawn before there is a row."""
    run_dir, _, _ = finished
    program = tmp_path / "program"
    output = tmp_path / "out"
    program.write_text(
        f"#!/bin/sh\nexec {sys.executable} -m cutpaste_tf.predict --watch --maps "
        f'--run={run_dir} --images="$1" --output="$2"\n'
    )
    program.chmod(0o755)
    latest = kill_and_start_again(inbox, output, [program], kills=10, files=10, pause=0.1)
    found = rows(output)
    assert {pathlib.Path(row["path"]).name for row in found} == set(latest)
    assert len({(row["path"], row["score"]) for row in found}) == len(found)
    assert {pathlib.Path(row["map"]).is_file() for row in found} == {True}
