"""A folder that is watched, as who drops images into it sees it; most of it without TensorFlow."""

import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import types

import mean
import pytest
from conftest import ROOT
from mean import Mean, put, read_rows

from cutpaste_tf.files import UserError
from cutpaste_tf.predict import folder, rows, watch
from cutpaste_tf.predict.watch import Inbox
from cutpaste_tf.threshold import Drift

WATCH = (sys.executable, mean.__file__, "watch")


class Watched:
    """A folder, and its inbox at some time: the clock stands still until it is moved."""

    def __init__(self, folder, done=()):
        self.folder, self.time, self.lines, self.done = folder, 0.0, [], dict(done)
        folder.mkdir(parents=True, exist_ok=True)
        self.inbox = Inbox(folder, folder, self.done, self.lines.append, clock=lambda: self.time)

    def later(self, seconds=0.4):
        """Returns what arrives within some time."""
        arrivals = []
        while seconds > 0 and not arrivals:
            seconds -= 0.2
            self.time += 0.2
            arrivals = self.inbox.look()
        return arrivals

    def names(self, seconds=0.4):
        """Returns the names of what arrives, all of which is then scored."""
        arrivals = self.later(seconds)
        assert all(self.inbox.finish(*arrival, scored=True) for arrival in arrivals)
        return [os.path.relpath(path, self.folder) for path, _ in arrivals]

    def write(self, name, text="x", order=0):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, ns=(order, order))
        return path


@pytest.fixture
def watched(tmp_path):
    return Watched(tmp_path / "inbox")


def test_a_file_arrives_once_when_it_has_not_changed_for_a_while(watched):
    path = watched.write("a.png", "half")
    assert watched.names(0.2) == []
    watched.write("a.png", "half and half")
    assert watched.names(0.2) == []
    assert watched.names(0.2) == ["a.png"]
    assert watched.names(4) == []
    watched.write("a.png", "half and half", order=5)
    assert watched.names() == ["a.png"]
    watched.write("new.part", "longer").rename(path)
    assert watched.names() == ["a.png"]
    # The next watch goes on.
    again = Watched(watched.folder, watched.done)
    assert again.names(1) == []
    again.write("a.png", "new")
    assert again.names() == ["a.png"]


def test_files_come_in_the_order_of_their_arrival(watched):
    for name in ("c.png", "b.part", "a.png"):
        watched.write(name, order=1)
        time.sleep(0.02)  # File systems have no finer times.
    (watched.folder / "b.part").rename(watched.folder / "b.png")
    assert watched.names() == ["c.png", "a.png", "b.png"]


def test_a_broken_file_is_tried_again_after_seconds(watched):
    watched.write("a.png")
    (arrival,) = watched.later()
    assert not watched.inbox.finish(*arrival, scored=False)
    began = watched.time
    (arrival,) = watched.later(9)
    assert 5 <= watched.time - began < 5.5
    assert watched.inbox.finish(*arrival, scored=False)
    assert watched.names(9) == []
    # One that becomes whole meanwhile is scored then.
    watched.write("b.png")
    (arrival,) = watched.later()
    assert not watched.inbox.finish(*arrival, scored=False)
    watched.write("b.png", "whole")
    assert watched.names() == ["b.png"]


def test_what_changes_or_goes_while_it_is_scored(watched):
    path = watched.write("a.png")
    (arrival,) = watched.later()
    watched.write("a.png", "other")
    assert not watched.inbox.finish(*arrival, scored=True)
    (arrival,) = watched.later()
    path.unlink()
    assert not watched.inbox.finish(*arrival, scored=False)
    watched.write("a.png", "another")
    (arrival,) = watched.later()
    path.unlink()
    assert watched.inbox.finish(*arrival, scored=True)  # It went after it was read.
    watched.write("a.png", "short-lived")
    assert watched.later(0.2) == []
    path.unlink()
    assert watched.later(1) == []
    assert watched.lines == []


def test_a_folder_that_vanishes_is_told_once_and_waited_for(watched):
    watched.write("a/1.png")
    watched.write("2.png")
    assert len(watched.names()) == 2
    aside = watched.folder.with_name("aside")
    watched.folder.rename(aside)
    assert watched.names(2) == []
    line = f"--images={watched.folder}: there is no such file or folder; waiting for it"
    assert watched.lines == [line]
    aside.rename(watched.folder)
    watched.write("a/3.png")
    assert watched.names() == ["a/3.png"]  # The others are no news.
    shutil.rmtree(watched.folder / "a")
    assert watched.names(1) == []
    watched.write("a/4.png")
    assert watched.names() == ["a/4.png"]
    assert watched.lines == [line]


def test_one_bad_entry_costs_one_entry_and_a_line(watched, monkeypatch):
    for name in ("a.png", "b/c.png", "closed/d.png"):
        watched.write(name)
    os.symlink("loop.png", watched.folder / "loop.png")
    os.symlink("loop", watched.folder / "loop")
    os.symlink("closed", watched.folder / "link")
    scandir = os.scandir

    def refuse(folder):
        if os.path.realpath(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert sorted(watched.names()) == ["a.png", "b/c.png"]
    assert watched.names() == []
    assert watched.lines == [
        f"{watched.folder / name}: may not be read (Permission denied); passed over"
        for name in ("closed", "link")
    ]


# The watch itself.


class Process:
    """A watch in a process of its own, which has begun."""

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


def read_lines(output):
    """Returns the whole lines of predictions.jsonl, to which more may be added meanwhile."""
    path = output / "predictions.jsonl"
    text = path.read_text() if path.exists() else ""
    return list(map(json.loads, text[: text.rfind("\n") + 1].splitlines()))


def stamps(output):
    return {line["path"]: (line["size"], line["mtime_ns"]) for line in read_lines(output)}


def watch_until(inbox, output, holds, log=lambda text: None):
    """Watches a folder in this process until something holds."""

    def stop():
        deadline = time.monotonic() + 60
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


def test_images_are_scored_as_they_come_and_the_next_watch_goes_on(inbox, output, tmp_path):
    put(inbox, "a.png", 20)
    watched = Process(*WATCH, inbox, output)
    assert watched.before == [
        f"{inbox}: threshold 100 (given); on paper\n",
        f"watching {inbox}; stop with Ctrl-C\n",
    ]
    assert watched.line() == ["normal", "20", "-0.60", str(inbox / "a.png")]
    with pytest.raises(UserError, match="another --watch writes there"):
        watch.watch(tmp_path, output, Mean(), log=print)
    put(inbox / "deep" / "er", "b.png", 150)
    assert watched.line() == ["anomalous", "150", "2.00", str(inbox / "deep" / "er" / "b.png")]
    put(inbox, "a.png", 30)
    assert watched.line() == ["normal", "30", "-0.40", str(inbox / "a.png")]
    ended = "ended; 3 images, 1 anomalous, 0 with an error\n"
    assert watched.end() == (0, ended, "")
    assert [row["score"] for row in read_rows(output)] == [20, 150, 30]

    put(inbox, "c.png", 40)
    # A shell has what it starts in the background ignore the signal, the tests included.
    options = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    watched = Process(*WATCH, inbox, output, **options)
    assert watched.line() == ["normal", "40", "-0.20", str(inbox / "c.png")]
    interrupted = "interrupted; 1 images, 0 anomalous, 0 with an error\n"
    assert watched.end(signal.SIGINT) == (130, "", interrupted)
    assert [row["score"] for row in read_rows(output)] == [20, 150, 30, 40]
    names = ["predictions.csv", "predictions.jsonl", "watch.lock"]
    assert sorted(path.name for path in output.iterdir()) == names


@pytest.mark.parametrize("period", [0.0, 60.0])
def test_a_drift_is_told_when_it_begins_and_when_it_ends(inbox, output, monkeypatch, period):
    monkeypatch.setattr(watch, "_DRIFT_PERIOD", period)
    for number, grey in enumerate([90] * 32 + [50] * 64 + [90] * 64 + [50] * 32):
        put(inbox, f"{number:03}.png", grey)
    lines = []
    watch_until(inbox, output, lambda: len(stamps(output)) == 192, lines.append)
    told = [line for line in lines if line.startswith("drift")]
    begun, ended = f"drift: {Drift.ADVICE}", "drift has ended"
    assert told == ([begun, ended] * 2 if period == 0.0 else [begun])
    assert lines.index(begun) == 2 + 32  # after the first batch
    fields = [row["drift"] for row in read_rows(output)]
    expected = Drift(Mean.normal_scores)
    assert fields == [expected.add(row["score"]) for row in read_rows(output)]


def test_files_that_would_harm_are_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(pathlib.Path("in"), "a.png", 30)
    os.mkfifo("in/fifo.png")
    with open("in/huge.png", "wb") as file:
        file.truncate(20 * 10**9)
    out = pathlib.Path("out")
    summary = folder.predict(Mean(), ["in"], out, count=2, batch_size=8, log=print)
    assert (summary.images, summary.scored, summary.failed) == (2, 1, 1)
    whole, huge = read_lines(out)
    assert (whole["path"], huge["path"]) == ("in/a.png", "in/huge.png")
    assert huge["error"].startswith("too large a file; ")


def test_a_broken_file_is_a_row_and_one_that_gets_whole_is_another(inbox, output, monkeypatch):
    monkeypatch.setattr(watch, "_RETRY", 0.2)
    monkeypatch.chdir(inbox.parent)
    path = inbox / "a.png"
    path.write_bytes(b"nothing")
    lines = []
    watch_until("inbox", "out", lambda: stamps(output), lines.append)
    (row,) = read_rows(output)
    assert row["score"] is row["verdict"] is None
    assert row["error"] == "not an image of a known format"
    assert lines[2:] == [
        f"error                        inbox/a.png: {row['error']}",
        "ended; 1 images, 0 anomalous, 1 with an error",
    ]
    broken = stamps(output)[str(path)]
    put(inbox, "a.png", 70)
    # A name that is not UTF-8 is a row once; the same files are recognised from elsewhere.
    put(inbox, os.fsdecode(b"\xff.png"), 1)
    monkeypatch.chdir(inbox)
    holds = lambda: len(stamps(output)) == 2 and stamps(output)[str(path)] != broken  # noqa: E731
    watch_until(".", "../out", holds)
    put(inbox, "b.png", 1)
    watch_until(inbox, output, lambda: len(stamps(output)) == 3)
    found = {(pathlib.Path(row["path"]).name, row["score"]) for row in read_rows(output)}
    assert found == {("a.png", None), ("a.png", 70.0), ("\\udcff.png", None), ("b.png", 1.0)}
    assert len(read_rows(output)) == 4


def test_a_full_disk_loses_nothing(inbox, output):
    """Writing past a limit is the same to a process as a full disk, but for the reason."""
    for number in range(40):
        put(inbox, f"{number:02}.png", number)

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    full = subprocess.run(
        [*WATCH, str(inbox), str(output)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=60,
    )
    assert full.returncode == 2
    assert full.stderr.startswith(f"error: --output={output}: cannot be written (File too large);")
    assert 0 < len(stamps(output)) < 40
    watch_until(inbox, output, lambda: len(stamps(output)) == 40)
    names = sorted(pathlib.Path(row["path"]).name for row in read_rows(output))
    assert names == sorted(path.name for path in inbox.iterdir())


def test_tables_are_those_of_the_lines_wherever_a_watch_was_cut_short(inbox, output, monkeypatch):
    model = Mean()
    model.scale = types.SimpleNamespace(outlined=True)
    area = dict.fromkeys(rows.AREA_COLUMNS[1:], 0.1 + 0.2)
    paths = [output / name for name in (rows.JSONL, rows.CSV, rows.AREAS)]
    output.mkdir()
    with rows.open_tables(output, model, resume=True) as tables:
        for name in ('a,\n"é.png', "b.png", "c.png"):
            row = dict.fromkeys(rows.COLUMNS) | {"path": name, "score": 0.1 + 0.2}
            row["areas"] = [area, area]
            tables.write(row, size=7, mtime_ns=8, areas=row["areas"])
    lines, areas = paths[0].read_bytes(), paths[2].read_bytes()
    assert areas.count(repr(0.1 + 0.2).encode()) == 3 * 2 * 7
    (output / "watch.lock").touch()
    monkeypatch.setattr(watch, "Inbox", stop_at_once)
    first = lines.splitlines(keepends=True)[0]
    for cut in (*range(len(first), len(lines), 97), len(lines)):
        paths[0].write_bytes(lines[:cut])
        paths[1].write_bytes(b"half a")
        with pytest.raises(Stopped):
            watch.watch(inbox, output, model, log=print)
        assert len(read_rows(output)) == lines[:cut].count(b"\n")
    assert paths[2].read_bytes() == areas


class Stopped(Exception):
    """Ends a watch before its first look."""


def stop_at_once(*arguments):
    raise Stopped


def test_tables_of_others_are_left_alone(inbox, output):
    output.mkdir()
    (output / "predictions.jsonl").write_text("earlier")
    with pytest.raises(UserError, match="holds the tables of a predict without --watch"):
        watch.watch(inbox, output, Mean(), log=print)
    assert [path.read_text() for path in output.iterdir()] == ["earlier"]


def kill_and_start_again(inbox, output, command, kills, files, pause):
    """Kills a watch at random moments while files arrive; returns the latest number of each name.

    Every fifth file takes another's place; grey `number` is in the file of that number.
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
    expected = {path: (state.st_size, state.st_mtime_ns) for path, state in states}
    deadline = time.monotonic() + 60
    while stamps(output) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)  # in which nothing may come any more
    assert watched.end()[0] == 0
    return latest


def test_no_file_is_lost_or_scored_twice_over_two_kills(inbox, output):
    latest = kill_and_start_again(inbox, output, WATCH, kills=2, files=20, pause=0.05)
    found = [(pathlib.Path(row["path"]).name, row["score"]) for row in read_rows(output)]
    assert len(set(found)) == len(found)
    assert dict(found) == latest


@pytest.mark.slow
def test_no_file_is_lost_or_scored_twice_by_a_run_over_many_kills(finished, inbox, output):
    """With overlays, which are drawn before there is a row."""
    flags = f'--watch --maps --run={finished[0]} --images="$0" --output="$1"'
    program = ["sh", "-c", f"exec {sys.executable} -m cutpaste_tf.predict {flags}"]
    latest = kill_and_start_again(inbox, output, program, kills=15, files=10, pause=0.1)
    found = read_rows(output)
    assert {pathlib.Path(row["path"]).name for row in found} == set(latest)
    assert len({(row["path"], row["score"]) for row in found}) == len(found)
    assert {pathlib.Path(row["map"]).is_file() for row in found} == {True}
