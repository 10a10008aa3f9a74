"""What has arrived in a folder, by a clock that stands still until it is moved."""

import os
import pathlib
import shutil
import time

import pytest

from cutpaste_tf.predict.inbox import Inbox


class Watched:
    """A folder, and its inbox at some time."""

    def __init__(self, folder, done=()):
        self.folder, self.time, self.told = folder, 0.0, []
        folder.mkdir(parents=True, exist_ok=True)
        self.inbox = Inbox(
            folder, folder / "maps", dict(done), self.told.append, clock=lambda: self.time
        )

    def later(self, seconds=0.2):
        """Returns what is there to score after some time."""
        for _ in range(round(seconds / 0.2)):
            self.time += 0.2
            self.inbox.look()
        return self.inbox.take(100)

    def names(self, seconds=0.2):
        return [os.path.relpath(one.path, self.folder) for one in self.later(seconds)]

    def write(self, name, text="x", order=0):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, ns=(order, order))
        return path


@pytest.fixture
def watched(tmp_path):
    return Watched(tmp_path / "inbox")


def test_a_file_is_there_when_it_has_not_changed_for_a_while(watched):
    watched.write("a.png", "half")
    assert watched.names() == []
    watched.write("a.png", "half and half")
    assert watched.names() == []
    assert watched.names() == ["a.png"]
    assert watched.names(4) == []


def test_nothing_is_looked_at_before_it_is_due(watched):
    watched.write("a.png")
    watched.inbox.look()
    watched.time = 0.19
    watched.inbox.look()
    assert watched.inbox.take(1) == []


def test_files_come_in_the_order_of_their_arrival(watched):
    watched.write("c.png")
    watched.later()
    for name in ("b.part", "a.png"):
        watched.write(name, order=1)
        time.sleep(0.02)  # File systems have no finer times.
    (watched.folder / "b.part").rename(watched.folder / "b.png")
    for _ in range(2):
        watched.time += 0.2
        watched.inbox.look()
    found = [pathlib.Path(watched.inbox.take(1)[0].path).name for _ in range(3)]
    assert found == ["c.png", "a.png", "b.png"]


def test_what_is_an_image_is_what_predict_takes_for_one(watched):
    for name in ("a.png", "b/c.JPG", "d.png.part", ".e.png", ".f/g.png", "Thumbs.db", "h.txt"):
        watched.write(name)
    watched.write("maps/overlay.png")  # where overlays go
    watched.write("out/maps/overlay.png")
    watched.write("out/predictions.csv")
    watched.write("elsewhere/maps/1.png")
    (watched.folder / "i.png").mkdir()
    os.mkfifo(watched.folder / "j.png")
    assert sorted(watched.names(0.4)) == ["a.png", "b/c.JPG", "elsewhere/maps/1.png"]


def test_links_are_followed_and_lead_nowhere_twice(watched, tmp_path):
    watched.write("a/1.png")
    os.symlink(watched.folder / "a", watched.folder / "0")
    os.symlink(watched.folder, watched.folder / "a" / "up")
    other = Watched(tmp_path / "other")
    other.write("2.png")
    os.symlink(other.folder, other.folder / "self")
    os.symlink(other.folder, watched.folder / "b")
    os.symlink(tmp_path / "nowhere", watched.folder / "c.png")
    assert sorted(watched.names(0.4)) == ["a/1.png", "b/2.png"]


@pytest.mark.parametrize("in_place", [True, False])
def test_new_content_under_the_same_name_comes_again(watched, in_place):
    path = watched.write("a.png")
    assert watched.names(0.4) == ["a.png"]
    if in_place:
        watched.write("a.png", order=5)
    else:
        watched.write("new.part", "longer").rename(path)
    assert watched.names(1) == ["a.png"]
    assert watched.names(1) == []


def test_what_changes_while_it_waits_its_turn_comes_once(watched):
    watched.write("a.png")
    watched.time = 0.2
    watched.inbox.look()
    watched.time = 0.4
    watched.inbox.look()  # It is ready, and not taken.
    watched.write("a.png", "more")
    (arrival,) = watched.later(1)
    assert arrival.stamp[0] == 4


def test_what_is_done_is_done(tmp_path):
    folder = tmp_path / "inbox"
    folder.mkdir()
    first = Watched(folder)
    first.write("a.png"), first.write("b.png")
    done = {one.path: one.stamp for one in first.later(0.4)}
    again = Watched(folder, done)
    assert again.names(1) == []
    again.write("b.png", "new")
    assert again.names(1) == ["b.png"]


def test_a_broken_file_is_tried_for_seconds(watched):
    watched.write("a.png")
    tries, (arrival,) = 1, watched.later(0.4)
    while not watched.inbox.stands(arrival, scored=False):
        tries, (arrival,) = tries + 1, watched.later(1.2)
    assert 4 <= tries <= 7
    assert watched.time > 5
    assert watched.names(9) == []
    # One that becomes whole meanwhile is scored then.
    watched.write("b.png")
    (arrival,) = watched.later(0.4)
    assert not watched.inbox.stands(arrival, scored=False)
    watched.write("b.png", "whole")
    (arrival,) = watched.later(1.4)
    assert watched.inbox.stands(arrival, scored=True)


def test_what_changes_while_it_is_scored_comes_again(watched):
    watched.write("a.png")
    (arrival,) = watched.later(0.4)
    watched.write("a.png", "other")
    assert not watched.inbox.stands(arrival, scored=True)
    (arrival,) = watched.later(0.4)
    assert watched.inbox.stands(arrival, scored=True)
    assert watched.names(1) == []


def test_what_goes_before_it_is_scored_is_left_alone(watched):
    path = watched.write("a.png")
    assert watched.later() == []
    path.unlink()
    assert watched.later(1) == []
    watched.write("a.png")
    (arrival,) = watched.later(0.4)
    path.unlink()
    assert not watched.inbox.stands(arrival, scored=False)
    watched.write("a.png")
    (arrival,) = watched.later(0.4)
    path.unlink()
    assert watched.inbox.stands(arrival, scored=True)  # It went after it was read.
    assert watched.told == []


def test_a_folder_that_vanishes_is_told_once_and_waited_for(watched):
    watched.write("a/1.png")
    watched.write("2.png")
    assert len(watched.later(0.4)) == 2
    aside = watched.folder.with_name("aside")
    watched.folder.rename(aside)
    assert watched.later(2) == []
    (line,) = watched.told
    assert line == f"{watched.folder}: cannot be read (No such file or directory); waiting for it"
    aside.rename(watched.folder)
    watched.write("a/3.png")
    assert watched.names(1) == ["a/3.png"]  # The others are no news.
    assert watched.told[1:] == [f"{watched.folder}: can be read again"]
    shutil.rmtree(watched.folder / "a")
    assert watched.later(1) == []
    watched.write("a/4.png")
    assert watched.names(1) == ["a/4.png"]
    assert len(watched.told) == 2


def test_a_large_folder_is_listed_when_it_has_changed(watched, monkeypatch):
    listed = []

    def scandir(path):
        listed.append(pathlib.Path(path).name)
        watched.time += 3.0  # as a million files do
        return real(path)

    real = os.scandir
    watched.write("a/1.png")
    os.utime(watched.folder / "a", ns=(0, 0))
    os.utime(watched.folder, ns=(0, 0))
    monkeypatch.setattr(os, "scandir", scandir)
    assert watched.names(10) == ["a/1.png"]
    assert listed == ["inbox", "a"]
    watched.write("a/2.png")
    assert watched.names(20) == ["a/2.png"]
    assert listed == ["inbox", "a", "a"]
    # Not all file systems have it in the folder's time.
    watched.write("a/3.png")
    os.utime(watched.folder / "a", ns=(0, 0))
    assert watched.names(99) == ["a/3.png"]
