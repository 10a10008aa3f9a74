"""A folder that is watched, as who drops images into it sees it; most of it without TensorFlow."""

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

import arriving
import pytest
from arriving import Mean, put, rows
from conftest import ROOT

from cutpaste_tf.files import UserError
from cutpaste_tf.predict import __main__ as predict
from cutpaste_tf.predict import watch
from cutpaste_tf.predict.rows import Judge
from cutpaste_tf.predict.watch import Place, check_places, read_places

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
        "watched.jsonl",
    ]


def done(output):
    """Returns the stamps of the files that are done, by their paths, while more may be added."""
    try:
        text = (output / "watched.jsonl").read_text()
    except FileNotFoundError:
        return {}
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return {one["path"]: (one["size"], one["mtime_ns"]) for one in lines if "path" in one}


def step(place, model=None, log=lambda text: None, until=lambda: True):
    """Watches a place in this process until something holds, and a file is not expected."""

    class Stop:
        asked = None

    with watch._Watched(place, model or Mean(), 32, log, watch.collections.Counter()) as one:
        for _ in range(1000):
            if not one.step(Stop) and until():
                return
            time.sleep(0.01)
    raise AssertionError("nothing has come")


def scored(place):
    return [pathlib.Path(row["path"]).name for row in rows(place.output)]


def test_a_broken_file_is_a_row_and_one_that_gets_whole_is_none(inbox, output, monkeypatch):
    monkeypatch.setattr("cutpaste_tf.predict.inbox._BROKEN", 0.5)
    monkeypatch.setattr("cutpaste_tf.predict.inbox._AGAIN", 0.1)
    (inbox / "a.png").write_bytes(b"nothing")
    place, said = Place(inbox, None, output), []
    step(place, log=said.append, until=lambda: said)
    (row,) = rows(output)
    assert row["score"] is row["verdict"] is None
    assert row["error"] == "not an image of a known format"
    assert said == [f"error                 {inbox / 'a.png'}: {row['error']}"]
    put(inbox, "a.png", 70)
    step(place, until=lambda: len(rows(output)) == 2)
    assert rows(output)[1]["score"] == 70


def test_a_full_disk_loses_nothing(inbox, output):
    """Writing past a limit is the same to a process as a full disk, but for the reason."""
    for number in range(40):
        put(inbox, f"{number:02}.png", number)

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    done = subprocess.run(
        [*MEAN, str(inbox), str(output)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"error: --output={output}: cannot be written (File too large); make room or mend its "
        "permissions, and start again to go on\n"
    )
    before = scored(Place(inbox, None, output))
    assert len(before) == done.stdout.count("normal ")
    step(Place(inbox, None, output), until=lambda: len(rows(output)) == 40)
    assert sorted(scored(Place(inbox, None, output))) == sorted(p.name for p in inbox.iterdir())


def test_overlays_that_cannot_be_written_are_a_line(inbox, output, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    put(inbox, "a.png", 1)
    monkeypatch.setattr(Judge, "_draw", full)
    with pytest.raises(UserError, match=r"No space left .* start again"):
        step(Place(inbox, None, output), until=lambda: False)
    assert rows(output) == []


def test_a_second_watch_with_the_same_output_is_refused(inbox, output, tmp_path):
    first = Process(*MEAN, inbox, output)
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=rf"another --watch .*process {first.process.pid}"):
        watch.watch([Place(tmp_path / "other", None, output)], Mean, log=print)
    assert first.end()[0] == 0


def test_several_folders_have_tables_of_their_own(inbox, output, tmp_path, monkeypatch):
    others = [Place(tmp_path / name, name, output / name) for name in ("bolt", "nut")]
    for value, place in enumerate(others):
        put(place.folder, "1.png", value)
    loaded, said = [], []

    def log(text):
        said.append(text)
        if len(said) == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    def load(run):
        loaded.append(run)
        return Mean()

    before = signal.getsignal(signal.SIGTERM)
    assert watch.watch(others, load, log=log) == 0
    assert signal.getsignal(signal.SIGTERM) == before
    assert loaded == ["bolt", "nut"]
    assert said[2] == f"watching {tmp_path / 'bolt'}, {tmp_path / 'nut'}; stop with Ctrl-C"
    assert said[-1] == "ended; 2 images, 0 anomalous, 0 with an error"
    assert [[row["score"] for row in rows(place.output)] for place in others] == [[0], [1]]


def test_a_signal_while_the_model_is_loaded_ends_it_at_once(inbox, output):
    def load(run):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    said = []
    assert watch.watch([Place(inbox, None, output)], load, log=said.append) == 0
    assert said == ["ended; 0 images, 0 anomalous, 0 with an error"]


def test_a_table_names_folders_and_runs_beside_it(tmp_path):
    for name in ("in/bolt", "x/nut", "y/nut"):
        (tmp_path / name).mkdir(parents=True)
    table = tmp_path / "parts.csv"
    table.write_text("run,folder\nruns/b,in/bolt\n/r,x/nut\n", encoding="utf-8-sig")
    assert read_places(table, "out") == [
        (tmp_path / "in" / "bolt", str(tmp_path / "runs" / "b"), pathlib.Path("out/bolt")),
        (tmp_path / "x" / "nut", "/r", pathlib.Path("out/nut")),
    ]
    table.write_text("folder,run,name\nx/nut,r,first\ny/nut,r,\n")
    places = read_places(table, "out")
    assert [place.output.name for place in places] == ["first", "nut"]
    check_places(places)


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "No such file"),
        ("", "must have the columns"),
        ("folder;run\nbolt;r\n", "must have the columns"),
        ("folder,run,colour\n", "must have the columns"),
        ("folder,run\n", "names no folders"),
        ("folder,run\nbolt\n", "row 1 must have a folder and a run"),
        ("folder,run\nbolt,r\nnut,r,x\n", "row 2 must have a folder and a run"),
        ("folder,run\nbolt,r\n./bolt,r\n", "both called bolt"),
        ("folder,run,name\nbolt,r,\n./bolt,r,b\n", "are the same folder"),
        ("folder,run\nbolt,r\nbolt/deep,r\n", "bolt/deep lies in"),
        ("folder,run\nbolt/deep,r\nbolt,r\n", "bolt/deep lies in"),
        ("folder,run\nnone,r\n", "none: there is no such folder"),
        ("folder,run,name\nbolt,r,a/b\n", "must be the name of a folder"),
        ("folder,run\nbolt,r\n", "r/results.json: there is no such file; has the run finished?"),
    ],
)
def test_mistakes_in_a_table_are_told_before_anything_is_loaded(tmp_path, capsys, text, message):
    (tmp_path / "bolt" / "deep").mkdir(parents=True)
    if text is not None:
        (tmp_path / "parts.csv").write_text(text)
    arguments = ["--watch", f"--runs={tmp_path / 'parts.csv'}", f"--output={tmp_path / 'out'}"]
    assert predict.main(["predict", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_flags_that_do_not_go_together_are_a_line(tmp_path, capsys):
    maps = tmp_path / "maps" / "deep"
    for folder in (tmp_path / "in", tmp_path / "watched", maps):
        folder.mkdir(parents=True)
    (tmp_path / "watched" / "watched.jsonl").touch()
    one = ["--run=r", f"--images={tmp_path / 'in'}"]
    out = f"--output={tmp_path / 'out'}"
    for arguments, message in (
        ([out], "required: --run or --model, --images"),
        ([out, one[0]], "required: --images"),
        ([out, "--watch"], "required: --run or --model, --images"),
        ([out, "--runs=x", *one], "--runs=x: goes with --watch"),
        ([out, "--watch", "--runs=x", *one], "--run: the table of --runs has it"),
        ([out, "--watch", "--runs=x", one[1]], "--images: the table of --runs has it"),
        ([out, "--watch", *one, one[1]], "--watch takes one folder"),
        ([out, "--watch", "--run=r", f"--images={tmp_path}/none"], "there is no such folder"),
        ([out, "--watch", "--run=r", f"--images={predict.__file__}"], "there is no such folder"),
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
