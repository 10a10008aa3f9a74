"""The page: what it shows, and all of it in a browser."""

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
from conftest import IMAGE_RUN, PATCH_RUN, ROOT, alter_run, read_scores, write_image

from cutpaste_tf import run_folder
from cutpaste_tf.app.inspector import Inspection, Inspector
from cutpaste_tf.draw.overlay import overlay
from cutpaste_tf.predict.model import RunModel
from cutpaste_tf.threshold import Drift, Threshold, at_rate


def view_of(inspector):
    # Not imported above: the tests of other modules would wait for Gradio too.
    from cutpaste_tf.app.page import View

    return View(inspector)


def parse(box):
    """The verdict's kind, and what its facts say."""
    kind = re.match(r'<div class="verdict ([\w-]+)"', box)[1]
    return kind, dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", box))


def test_data_that_have_moved(app_runs, own_copy, tmp_path):
    moved = shutil.copytree(app_runs[1], tmp_path / "elsewhere" / "part")
    config = json.loads((own_copy / "config.json").read_text())
    config["data_dir"] = str(tmp_path / "gone")
    (own_copy / "config.json").write_text(json.dumps(config))
    inspector = Inspector({IMAGE_RUN: own_copy})
    view = view_of(inspector)
    inspection = view.inspect(IMAGE_RUN, str(moved / "test" / "hole" / "000.png"))
    assert isinstance(inspection, Inspection)  # all else works
    images, text = view.neighbours(inspection)
    assert images == []
    assert text.count("<p") == 1
    for part in ("cannot be shown", str(tmp_path / "gone"), "--data_dir"):
        assert part in text

    inspector._data_dir = str(moved.parent)
    assert len(view.neighbours(inspection)[0]) == 5
    # Another folder of that name is not taken for the run's.
    (moved / "train" / "good" / "000.png").unlink()
    inspector._normal.cache_clear()
    _, text = view.neighbours(inspection)
    assert "000.png: does not exist" in text


def test_a_large_image_is_shown_smaller_in_its_proportions(inspector, tmp_path):
    path = write_image(tmp_path / "large.png", np.zeros([500, 2000, 3], np.uint8))
    inspection = inspector.inspect(IMAGE_RUN, str(path))
    assert inspection.picture.shape == (200, 800, 3)
    heat, _ = view_of(inspector).heat_map(inspection, Threshold(1.0))
    assert heat.shape == (200, 800, 3)


def test_the_threshold_decides_verdict_and_colours_and_not_the_score(app_runs, inspector):
    view = view_of(inspector)
    for run in (IMAGE_RUN, PATCH_RUN):
        files = sorted((app_runs[1] / "test").glob("*/*.png"))
        inspection = max((view.inspect(run, str(path)) for path in files), key=lambda x: x.score)
        score = inspection.score
        assert parse(view.verdict(inspection, Threshold(score * (1 + 1e-6))))[0] == "normal"
        heats = []
        for threshold in (Threshold(score * (1 - 1e-6)), Threshold(4 * score)):
            kind, facts = parse(view.verdict(inspection, threshold))
            heat, legend = view.heat_map(inspection, threshold)
            assert kind == ("normal" if heats else "anomalous")
            assert facts["Anomaly score"] == f"{score:.6g}"
            assert facts["Threshold"] == f"{threshold.value:.6g}"
            values = inspector._model(run).scale_at(threshold)(inspection.map, score)
            np.testing.assert_array_equal(heat, overlay(inspection.picture, values))
            assert "Heat map" in legend
            heats.append(heat.astype(float).mean())
        assert heats[0] > heats[1]
        heat, legend = view.heat_map(dataclasses.replace(inspection, map=None), threshold)
        assert heat is None
        assert "makes no heat map" in legend


def test_drift_is_told_once_enough_images_were_inspected(app_runs, inspector, monkeypatch):
    below_all = np.linspace(-200.0, -100.0, 50)
    monkeypatch.setattr(run_folder, "read_normal_scores", lambda run_dir: below_all)
    view, image = view_of(Inspector(inspector.runs)), str(app_runs[1] / "test/good/000.png")
    boxes = [view.verdict(view.inspect(IMAGE_RUN, image), Threshold(0.0)) for _ in range(21)]
    assert [Drift.ADVICE in box for box in boxes] == [False] * 19 + [True] * 2


def test_where_a_threshold_comes_from(app_runs, inspector):
    view, folder = view_of(inspector), app_runs[0] / IMAGE_RUN
    normal = run_folder.read_normal_scores(folder)
    threshold, number, percent, text = view.threshold(IMAGE_RUN)
    assert threshold == run_folder.choose_threshold(folder)
    assert (number, percent) == (pytest.approx(threshold.value, rel=1e-5), 5.0)
    assert text == f'<p class="note">{threshold}: 0 of 8 normal training images are above it.</p>'

    threshold, number, percent, text = view.threshold(IMAGE_RUN, percent=20.0)
    assert threshold.value == at_rate(normal, 0.2)
    assert (number, percent) == (pytest.approx(threshold.value, rel=1e-5), 20.0)
    assert "(false-positive rate 0.2" in text

    value = float(np.sort(normal)[-2])
    threshold, number, percent, text = view.threshold(IMAGE_RUN, value=value)
    assert (threshold.value, percent) == (value, pytest.approx(100 / 8))
    assert "(given): 1 of 8 normal training images are above it" in text
    assert view.threshold(IMAGE_RUN, value=-5.0)[2] == 20.0  # the slider's end


def test_a_run_without_normal_scores_gives_no_verdict_until_one_is_typed(own_copy, app_runs):
    (own_copy / "normal_scores.csv").write_text("path,score\n")
    results = json.loads((own_copy / "results.json").read_text())
    (own_copy / "results.json").write_text(json.dumps(results | {"threshold": None}))
    alter_run(own_copy)
    view = view_of(Inspector({IMAGE_RUN: own_copy}))
    threshold, number, _, text = view.threshold(IMAGE_RUN)
    assert (threshold, number) == (None, None)
    assert "No threshold" in text
    assert "type a threshold" in text
    inspection = view.inspect(IMAGE_RUN, str(app_runs[1] / "test" / "good" / "000.png"))
    kind, facts = parse(view.verdict(inspection, threshold))
    assert (kind, facts["Anomaly score"]) == ("no-verdict", f"{inspection.score:.6g}")
    assert facts["Relative score"] == "none"
    heat, legend = view.heat_map(inspection, threshold)
    assert heat is None
    assert "need a threshold" in legend
    threshold, _, _, text = view.threshold(IMAGE_RUN, value=inspection.score - 1.0)
    assert "(given)" in text
    assert parse(view.verdict(inspection, threshold))[0] == "anomalous"
    assert view.heat_map(inspection, threshold)[0] is not None


def test_a_broken_image_a_damaged_run_and_a_fault_are_a_message(
    app_runs, own_copy, tmp_path, monkeypatch, capsys
):
    image = app_runs[1] / "test" / "good" / "000.png"
    broken = tmp_path / "uploads" / "<b>broken.png"
    broken.parent.mkdir()
    broken.write_bytes(image.read_bytes()[:200])
    view = view_of(Inspector({IMAGE_RUN: own_copy}))
    assert view.inspect(IMAGE_RUN, None) is None
    assert parse(view.verdict(None, None))[0] == "empty"

    message = view.inspect(IMAGE_RUN, str(broken))
    assert message == "<b>broken.png: a damaged or truncated image; remove it or save it again"
    box = view.verdict(message, None)
    assert parse(box)[0] == "problem"
    assert "&lt;b&gt;broken.png" in box
    assert "<b>" not in box
    assert view.heat_map(message, None) == (None, "")
    assert view.neighbours(message) == ([], "")

    density = own_copy / "density.npz"
    content = density.read_bytes()
    density.write_bytes(content[:-100])
    view = view_of(Inspector({IMAGE_RUN: own_copy}))
    message = view.inspect(IMAGE_RUN, str(image))
    assert str(density) in message
    assert "damaged or altered" in message
    assert view.inspect(IMAGE_RUN, None) == message  # before there is an image, too
    density.write_bytes(content)
    assert isinstance(view.inspect(IMAGE_RUN, str(image)), Inspection)  # and it goes on

    def fail(self, *arguments, **options):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(RunModel, "evaluate", fail)
    message = view.inspect(IMAGE_RUN, str(image))
    assert "ZeroDivisionError" in message
    assert "secret" not in message
    assert "secret" in capsys.readouterr().err  # for a developer


def test_the_page_in_a_browser(app_runs, tmp_path):
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser_path = next(filter(None, map(shutil.which, names)), None)
    if browser_path is None:
        pytest.skip("no chromium or chrome on PATH")
    playwright = pytest.importorskip("playwright.sync_api")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    (tmp_path / "tmp").mkdir()
    environment = dict(
        os.environ,
        TMPDIR=str(tmp_path / "tmp"),
        # Nothing may go by way of a proxy: there is none here.
        HTTP_PROXY="http://127.0.0.1:9",
        HTTPS_PROXY="http://127.0.0.1:9",
    )
    command = [sys.executable, "-m", "cutpaste_tf.app", f"--workdir={app_runs[0]}"]
    with open(tmp_path / "stderr.txt", "w+") as stderr:
        server = subprocess.Popen(
            [*command, f"--port={port}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            # A shell has what it starts in the background ignore the signal, the tests included.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            with playwright.sync_playwright() as driver:
                # As root, as in containers, it runs without its sandbox only.
                browser = driver.chromium.launch(
                    executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"]
                )
                line = server.stdout.readline()
                assert url in line, (tmp_path / "stderr.txt").read_text()
                use_page(browser, url, app_runs, tmp_path)
                server.send_signal(signal.SIGINT)  # while a tab is open
                assert server.wait(15) == 0
                browser.close()
        finally:
            server.kill()
            server.wait()
            server.stdout.close()
        stderr.seek(0)
        assert "Traceback" not in stderr.read()
    assert not list((tmp_path / "tmp").glob("cutpaste_tf_app_*"))


def use_page(browser, url, app_runs, tmp_path):
    """Does what a user does, and asks for what none may have."""
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    page.set_default_timeout(30_000)
    asked = set()
    page.on("request", lambda request: asked.add(request.url))
    page.goto(url)
    page.wait_for_selector("#verdict .empty")
    style = "getComputedStyle(document.querySelector('#verdict .verdict')).borderRadius"
    assert page.evaluate(style) == "8px"  # page.css is there.
    assert page.get_by_label("Threshold").input_value() != ""

    def fact(name):
        return page.inner_text(f"#verdict dl div:has(dt:text-is('{name}')) dd")

    # An image: score, verdict, heat map, nearest normal images.
    def scores_by_name(run):
        return {row["path"]: float(row["score"]) for row in read_scores(app_runs[0] / run)}

    scores = scores_by_name(IMAGE_RUN)
    name = max(scores, key=scores.get)  # and so its heat map is not all dark
    score, image = scores[name], app_runs[1] / name
    page.set_input_files("input[type=file]", image)
    page.wait_for_selector("#verdict strong")
    assert float(fact("Anomaly score")) == pytest.approx(score, rel=1e-4)
    assert fact("Image") == image.name
    own = run_folder.choose_threshold(app_runs[0] / IMAGE_RUN)
    (word,) = own.verdicts([score])
    assert page.inner_text("#verdict strong").lower() == word
    for selector in ("#picture img", "#heat img"):
        page.wait_for_function(
            f"document.querySelector('{selector}')?.naturalWidth === 40"
        )  # the image's own size
    page.wait_for_function("document.querySelectorAll('#gallery .thumbnail-item img').length === 5")
    captions = page.locator("#gallery .caption-label").all_inner_texts()
    assert all(re.fullmatch(r"00\d\.png\s+distance [\d.]+", caption) for caption in captions)

    relative = own.relative(score)
    assert fact("Relative score") == f"{relative:.2f}"

    # Other thresholds: the verdict flips and flips back, the score stays.
    heat = page.get_attribute("#heat img", "src")
    other = {"normal": "anomalous", "anomalous": "normal"}[word]
    page.get_by_label("Threshold").fill(str(score / 2 if word == "normal" else 2 * score))
    page.wait_for_selector(f"#verdict .{other}")
    assert float(fact("Anomaly score")) == pytest.approx(score, rel=1e-4)
    page.wait_for_function(f"document.querySelector('#heat img').src !== '{heat}'")
    page.get_by_label("Threshold").fill("")
    page.get_by_role("button", name="Back to the model's own threshold").click()
    page.wait_for_selector(f"#verdict .{word}")
    assert float(fact("Threshold")) == pytest.approx(own.value, rel=1e-5)

    # Another model scores the same image.
    page.get_by_label("Model").click()
    page.get_by_role("option", name=PATCH_RUN).click()
    score = scores_by_name(PATCH_RUN)[name]
    page.wait_for_selector(f"#verdict dd:text-is('{score:.6g}')")

    # A broken file: a message, and then the next image.
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0 and no more")
    page.set_input_files("input[type=file]", broken)
    page.wait_for_selector("#verdict .problem")
    assert "broken.tif: " in page.inner_text("#verdict")
    page.wait_for_selector("#gallery img", state="detached")
    page.set_input_files("input[type=file]", app_runs[1] / "test" / "good" / "001.png")
    page.wait_for_selector("#verdict dd:text-is('001.png')")
    page.wait_for_selector("#gallery img")

    # Nothing comes from elsewhere, and nothing is served but what the page shows.
    assert {u for u in asked if not u.startswith((url, "data:", "blob:"))} == set()
    for path in (app_runs[0] / IMAGE_RUN / "config.json", image, ROOT / "setup.py", "/etc/passwd"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            opener.open(f"{url}/gradio_api/file={path}")
        assert refused.value.code in (403, 404)
