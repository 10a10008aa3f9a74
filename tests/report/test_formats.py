"""Reports as text, Markdown, CSV and HTML, and the command that writes them."""

import csv
import io
import re
import urllib.parse
import xml.etree.ElementTree as ElementTree

import pytest
from filled import add_run

from cutpaste_tf.report import __main__ as command
from cutpaste_tf.report import formats, page, paper, tables


@pytest.fixture
def runs(tmp_path):
    for seed, value in enumerate((0.91, 0.93)):
        add_run(tmp_path, "metal_nut", seed, value, task="scar", steps=800)
    add_run(tmp_path, "a&b|c#d", 0, 0.75, task="scar")
    return tables.collect(str(tmp_path))[0]


@pytest.fixture
def filled(runs):
    return tables.build("1", runs)


def test_text_fits_the_width_and_repeats_the_rows(filled):
    text = formats.text(filled, 80)
    table, _, _ = text.partition("AUC in percent")
    assert max(map(len, table.splitlines())) <= 80
    assert text.count("metal_nut") > 1
    assert re.search(r"92\.0 ± 1\.0 \[[\d,]+\] +86\.9 ± 1\.5", text)
    assert "steps 800 (the paper's 65536)" in text
    assert formats.text(filled, 1000).count("metal_nut") == 1


def test_markdown_has_a_cell_for_every_column(filled):
    lines = [line for line in formats.markdown(filled).splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert any(line.startswith(r"| a&b\|c#d ") for line in lines)
    assert any(line.startswith(r"| metal\_nut ") and "92.0 ± 1.0" in line for line in lines)


def test_csv_has_exact_numbers_and_says_what_is_missing(filled):
    rows = list(csv.DictReader(io.StringIO(formats.comma_separated([filled]))))
    ours, printed = (r for r in rows if (r["row"], r["column"]) == ("metal_nut", "Scar"))
    assert (ours["source"], float(ours["mean"]), ours["runs"]) == ("ours", 92.0, "2")
    assert float(ours["stderr"]) == pytest.approx(1.0)
    assert list(printed.values())[4:] == ["paper", "86.9", "1.5", "", ""]
    missing = [r for r in rows if r["notes"] == "missing"]
    assert missing
    assert {(r["source"], r["mean"], r["runs"]) for r in missing} == {("ours", "", "0")}


def test_the_page_is_whole_and_needs_nothing_else(runs, tmp_path):
    built = [tables.build(number, runs) for number in paper.TABLES]
    text = page.build(built, runs, ["<odd> folder"], tmp_path)
    assert "http" not in text
    assert "<script" not in text
    assert "&lt;odd&gt; folder" in text
    tree = ElementTree.fromstring(text[text.index("<body>") : text.index("</html>")])
    assert len(list(tree.iter("table"))) == len(paper.TABLES)
    links = [a.get("href") for a in tree.iter("a") if "#" not in a.get("href")]
    assert len(links) == 3
    assert all((tmp_path / urllib.parse.unquote(link)).is_dir() for link in links)
    rows = [["".join(cell.itertext()) for cell in tr] for tr in tree.iter("tr")]
    row = next(row for row in rows if row[0] == "metal_nut")  # of Table 1, with marks of notes
    assert row[6:10] == ["missing", "84.6 ± 0.7", "92.0 ± 1.01,2", "86.9 ± 1.5"]


def report(*arguments):
    return command.main(["report", *map(str, arguments)])


def test_command_prints_and_writes(runs, tmp_path, capsys):
    assert report(f"--workdir={tmp_path}", "--table=1") == 0
    assert "Table 1." in capsys.readouterr().out
    assert report(f"--workdir={tmp_path}", "--table=1,5", "--format=csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["table"] for row in rows} == {"1", "5"}
    for form in (*formats.FORMATS, "html"):
        output = tmp_path / "new" / f"{form}.out"
        flags = ["--table=all", f"--format={form}", f"--output={output}"]
        assert report(f"--workdir={tmp_path}", *flags) == 0
        assert "Scar" in output.read_text(encoding="utf-8")
    assert report(f"--workdir={tmp_path}", "--table=all") == 0
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_mistakes_are_one_line_and_status_2(tmp_path, capsys):
    workdir = f"--workdir={tmp_path}"
    for arguments, message in (
        (["--table=1"], "--workdir"),
        ([workdir, "--table=9"], "--table=9: must be all or one of 1, 2"),
        (["--table=1", "--workdir=/nowhere/at/all"], "/nowhere/at/all"),
        ([workdir, "--table=1", "--format=pdf"], "--format=pdf"),
        ([workdir, "--table=1", "--output=/proc/no/file"], "--output=/proc/no/file"),
        ([workdir, "--table=1", "--output="], "must name a file"),
        ([workdir, "--table=1", f"--output={tmp_path}"], "must name a file"),
    ):
        assert report(*arguments) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("error: ")
        assert message in err
