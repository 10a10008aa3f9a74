"""The command line's flags: their help text, and what they are parsed into."""

import os
import re

import pytest

from cutpaste_tf import flags
from cutpaste_tf.config import FIELDS, GROUPS
from cutpaste_tf.files import UserError


def test_help_has_every_flag_once_in_the_group_that_it_is_of():
    text = flags.usage("main")
    headings = [text.index(f"\n{group}: ") for group in GROUPS]
    assert headings == sorted(headings)
    for number, group in enumerate(GROUPS):
        end = headings[number + 1] if number + 1 < len(GROUPS) else len(text)
        of_group = re.findall(r"^  --(\w+)=", text[headings[number] : end], re.MULTILINE)
        fields = [name for name, f in FIELDS.items() if f.metadata["group"] == group]
        assert of_group == fields
    assert max(map(len, text.splitlines())) <= 100
    assert len(text.splitlines()) <= 150


def test_help_begins_with_what_a_beginner_needs():
    text = flags.usage("main")
    assert text.index("experiments/lite0.flags --data_dir=PARTS") < text.index("\ndata: ")
    first = re.findall(r"^  --(\w+)=", text, re.MULTILINE)[1:6]
    assert first == ["dataset", "data_dir", "category", "image_size", "workdir"]


def test_a_folder_whose_name_is_not_utf8_is_named(tmp_path):
    odd = os.fsdecode(b"caf\xe9")
    for name in ("workdir", "data_dir"):
        with pytest.raises(UserError, match=f"--{name}=.*not UTF-8"):
            flags.parse(["main", "--dataset=folder", f"--data_dir={tmp_path}", f"--{name}={odd}"])


def test_a_flag_file_that_is_not_utf8_is_named(tmp_path):
    file = tmp_path / "own.flags"
    file.write_bytes(b"--data_dir=caf\xe9\n")
    with pytest.raises(UserError, match=r"--flagfile=.*own.flags: cannot be read \(not UTF-8\)"):
        flags.parse(["main", f"--flagfile={file}"])


@pytest.mark.parametrize("start", ["# of caf\xe9s", "--steps=7", "", "--flagfile={}/b.flags"])
def test_a_flag_file_is_read_as_windows_writes_it(start, tmp_path):
    (tmp_path / "b.flags").write_bytes("// b\r\n  --steps=7\r\n".encode("utf-8-sig"))
    file = tmp_path / "own.flags"
    lines = [start.format(tmp_path), "", "--steps=7", "--category=caf\xe9", "--data_dir=a b"]
    file.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    (tmp_path / "caf\xe9" / "train" / "good").mkdir(parents=True)
    for argv in ([f"--flagfile={file}"], ["--flagfile", str(file)], [f"-flagfile={file}"]):
        more = ["--dataset=folder", f"--data_dir={tmp_path}", "--width=0.5"]
        (run,) = flags.parse(["main", *argv, *more])
        assert (run.steps, run.category, run.width) == (7, "caf\xe9", 0.5)
    file.write_text(f"--flagfile={file}\n")
    with pytest.raises(UserError, match=r"own\.flags: names itself"):
        flags.parse(["main", f"--flagfile={file}"])
