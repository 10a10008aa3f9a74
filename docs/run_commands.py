"""Runs every command of the documentation and pastes what it prints into the pages.

    python docs/run_commands.py

works in a temporary folder for about twelve minutes on two CPU cores, and ends with status 1 at the
first command that fails. `PARTS/bolt` and all other images are solar cells (package elpv-dataset),
with a bad one among the good: `PARTS/bolt/train/good/017.png`. A block of `text` that follows a
block of `sh` is replaced by what its last command printed on stdout.

The trainings of the paper are cut to four steps. Not run: what installs, needs Docker or is run by
`.ci/run`.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
# In this order: the first makes the run that the others use.
PAGES = ("docs/first_run.md", "README.md", "docs/production.md", "experiments/README.md")
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```(?:\n\n```text\n(.*?)^```)?", re.M | re.S)
NOT_RUN = ("pip ", "docker ")
SERVES = ("cutpaste_tf.app", "--watch")  # these commands run until they are stopped
SERVES_FOR = 30  # seconds
# What is added to a command that has these words.
CUT = {
    "--flagfile=resnet18_scar": "--category=bottle --seed=0 --steps=4 --image_size=64 --width=0.25",
    "cutpaste_tf.sweep": "--category=bottle --seed=0 --steps=4 --image_size=64 --width=0.25",
}


def make_images(folder: pathlib.Path) -> None:
    """Writes the folders that the pages name, with images of solar cells."""
    from elpv_dataset.utils import load_dataset

    images, probabilities, types = load_dataset()
    good = images[(probabilities == 0) & (types == "mono")]
    bad = images[(probabilities == 1) & (types == "mono")]
    good = good[np.random.default_rng(0).permutation(len(good))]
    parts = {"train/good": [*good[:17], bad[0], *good[17:200]]}
    parts |= {"test/good": good[200:260], "test/crack": bad[1:61]}
    places = {f"PARTS/bolt/{name}": some for name, some in parts.items()}
    for category in ("bottle", "pill", "screw", "transistor"):
        places |= {f"MVTEC_AD/{category}/{name}": some[:20] for name, some in parts.items()}
    new = [*good[260:265], *bad[61:66]]
    places |= {"NEW": new, "INBOX": new, "ARCHIVE": new, "NEW_GOOD": good[265:285]}
    for place, some in places.items():
        (folder / place).mkdir(parents=True)
        for number, image in enumerate(some):
            Image.fromarray(image).save(folder / place / f"{number:03d}.png")
    for name in ("1", "2", "part1", "part2"):
        shutil.copy(folder / "NEW/000.png", folder / f"NEW/{name}.png")


def commands(block: str) -> list[str]:
    """The commands of a block of `sh` that are run, in full."""
    lines = block.replace("\\\n", " ").splitlines()
    return [
        " ".join([line, *(flags for words, flags in CUT.items() if words in line)])
        for line in lines
        if not line.startswith(NOT_RUN)
    ]


def run(command: list[str] | str, folder: pathlib.Path) -> str:
    """What a command prints on stdout; the whole program ends where a command fails."""
    print(f"$ {command if isinstance(command, str) else 'python'}", flush=True)
    serves = any(words in command for words in SERVES)
    process = subprocess.Popen(
        command,
        shell=isinstance(command, str),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=SERVES_FOR if serves else None)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        printed, _ = process.communicate()
        process.returncode = 0
    print(printed, flush=True)
    if process.returncode:
        sys.exit(1)
    return printed


def main() -> None:
    """Runs the pages' commands in a new folder, one page after the other."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        make_images(folder)
        for page in (ROOT / page for page in PAGES):

            def with_output(block: re.Match) -> str:
                language, code, shown = block.groups()
                if language == "python":
                    run([sys.executable, "-c", code], folder)
                    return block[0]
                printed = [run(command, folder) for command in commands(code)]
                if shown is None:
                    return block[0]
                return block[0].removesuffix(f"{shown}```") + f"{printed[-1]}```"

            text = page.read_text(encoding="utf-8")
            page.write_text(BLOCK.sub(with_output, text), encoding="utf-8")


if __name__ == "__main__":
    main()
