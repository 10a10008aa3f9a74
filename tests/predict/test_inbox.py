"""What has arrived in a folder, by a clock that stands still until it is moved."""

import os
import shutil
import time

import pytest

from cutpaste_tf.predict.inbox import Inbox


class Watched:
    """A folder, and its inbox at some time."""

    def __init__(self, folder, done=()):
        self.folder, self.time, self.told, self.done = folder, 0.0, [], dict(done)
        folder.mkdir(parents=True, exist_ok=True)
        self.inbox = Inbox(
            folder, folder / "maps", self.done, self.told.append, clock=lambda: self.time
        )

    def later(self, seconds=0.2):
        """Returns what is there to score after some time."""
        found = []
        while seconds > 0 and not found:
            seconds -= 0.2
            self.time += 0.2
            found = self.inbox.look()
        return found

    def names(self, seconds=0.2):
        """Returns the names of what is there, all of which is then scored."""
        found = self.later(seconds)
        assert all(self.inbox.stands(one, scored=True) for one in found)
        return [os.path.relpath(one.path, self.folder) for one in found]

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


def test_files_come_in_the_order_of_their_arrival(watched):
    for name in ("c.png", "b.part", "a.png"):
        watched.write(name, order=1)
        time.sleep(0.02)  # File systems have no finer times.
    (watched.folder / "b.part").rename(watched.folder / "b.png")
    assert watched.names(0.4) == ["c.png", "a.png", "b.png"]


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


def test_what_is_done_is_done(tmp_path):
    folder = tmp_path / "inbox"
    first = Watched(folder)
    first.write("a.png"), first.write("b.png")
    assert len(first.names(0.4)) == 2
    again = Watched(folder, first.done)
    assert again.names(1) == []
    again.write("b.png", "new")
    assert again.names(1) == ["b.png"]


def test_a_broken_file_is_tried_again_after_seconds(watched):
    watched.write("a.png")
    (arrival,) = watched.later(0.4)
    assert not watched.inbox.stands(arrival, scored=False)
    began = watched.time
    (arrival,) = watched.later(9)
    assert 5 <= watched.time - began < 5.5
    assert watched.inbox.stands(arrival, scored=False)
    assert watched.names(9) == []
    # One that becomes whole meanwhile is scored then.
    watched.write("b.png")
    (arrival,) = watched.later(0.4)
    assert not watched.inbox.stands(arrival, scored=False)
    watched.write("b.png", "whole")
    assert watched.names(1) == ["b.png"]


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
    assert len(watched.names(0.4)) == 2
    aside = watched.folder.with_name("aside")
    watched.folder.rename(aside)
    assert watched.names(2) == []
    (line,) = watched.told
    assert line == f"--images={watched.folder}: there is no such file or folder; waiting for it"
    aside.rename(watched.folder)
    watched.write("a/3.png")
    assert watched.names(1) == ["a/3.png"]  # The others are no news.
    assert watched.told[1:] == [f"{watched.folder}: can be read again"]
    shutil.rmtree(watched.folder / "a")
    assert watched.names(1) == []
    watched.write("a/4.png")
    assert watched.names(1) == ["a/4.png"]
    assert len(watched.told) == 2


def test_one_bad_entry_costs_one_entry_and_a_line(watched, monkeypatch):
    for name in ("a.png", "b/c.png", "closed/d.png"):
        watched.write(name)
    os.symlink("loop.png", watched.folder / "loop.png")
    os.symlink("loop", watched.folder / "loop")
    os.symlink("closed", watched.folder / "link")
    scandir = os.scandir

    def refused(folder):
        if os.path.realpath(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refused)
    assert sorted(watched.names(0.4)) == ["a.png", "b/c.png"]
    assert watched.names() == []
    assert watched.told == [
        f"{watched.folder / name}: may not be read (Permission denied); passed over"
        for name in ("closed", "link")
    ]
