"""The documentation: links that lead somewhere, and pages short enough to be read."""

import re

import pytest
from conftest import ROOT

from cutpaste_tf import cli
from cutpaste_tf.config import Config

PAGES = sorted(
    path
    for folder in (".", "docs", "experiments")
    for path in (ROOT / folder).glob("*.md")
    if not path.name.startswith(".")
)
# What a link to a heading ends with: GitHub's rule.
NOT_IN_ANCHORS = re.compile(r"[^\w\- ]")


def without_code(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path):
    headings = re.findall(r"^#+ (.*)$", without_code(path.read_text(encoding="utf-8")), re.M)
    return {NOT_IN_ANCHORS.sub("", h.replace("`", "").lower()).replace(" ", "-") for h in headings}


def links(path):
    return re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), f"{link}: there is no such file"
        assert not anchor or anchor in anchors(target), f"{link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_paragraph_is_longer_than_five_lines(page):
    text = without_code(page.read_text(encoding="utf-8"))
    for block in re.split(r"\n\s*\n|\n(?=- |\d+\. |\|)", text):
        if not block.lstrip().startswith(("|", "#", "!")):
            assert len(" ".join(block.split())) <= 500, block


def test_the_readme_is_read_in_two_minutes():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    first, second = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for block in (first, second):
        assert len(block.splitlines()) == 1
        assert block.startswith("pip install ")


def test_every_page_is_found_from_the_readme():
    found = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    assert {path for path in PAGES if path.name != "README.md"} <= found
    assert ROOT / "experiments" / "README.md" in found


def test_every_picture_is_shown_and_none_is_large():
    shown = {
        (page.parent / link).resolve()
        for page in PAGES
        for link in links(page)
        if link.endswith(".png")
    }
    for picture in (ROOT / "docs").glob("*.png"):
        assert picture in shown, f"{picture.name} is shown nowhere"
        assert picture.stat().st_size < 300_000


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_have_the_flags_that_they_are_shown_with(page):
    known = set(Config.__dataclass_fields__) | {"flagfile", "help"}
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for command in re.findall(r"^python -m cutpaste_tf\.main (.*)$", text, re.MULTILINE):
        flags = re.findall(r"--(\w+)", command)
        assert set(flags) <= known, command
        for file in re.findall(r"--flagfile=(\S+)", command):
            assert "NAME" in file or (ROOT / cli.find_flagfile(file, str(ROOT))).is_file(), command


def test_the_script_runs_the_commands_of_all_pages():
    script = (ROOT / "docs" / "run_commands.py").read_text(encoding="utf-8")
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        if re.search(r"^```(sh|python)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert f'"{name}"' in script or name == "CONTRIBUTING.md", name
