"""The web page: its parts in this process, and all of it in a browser."""

import concurrent.futures
import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
import sklearn.neighbors
from conftest import ROOT, TINY, assert_user_error, make_mvtec, pattern, write_image
from PIL import Image

from cutpaste_tf import app, ensemble, main
from cutpaste_tf import density as densities
from cutpaste_tf import threshold as thresholds
from cutpaste_tf.data import pipeline
from cutpaste_tf.data.split import normal as normal_split
from cutpaste_tf.errors import UserError
from cutpaste_tf.evaluate import Detector
from cutpaste_tf.predict import Scale

IMAGE, PATCH = "part/seed_0", "patch/part/seed_0"


@pytest.fixture(scope="module")
def app_runs(tmp_path_factory):
    """A work directory with a run of whole images and one of patches, untrained, and their data."""
    root = tmp_path_factory.mktemp("app")
    data = make_mvtec(root / "data")
    flags = ["--dataset=folder", f"--data_dir={data}", *TINY, "--steps=0"]
    patch = ["--image_size=48", "--patch_size=32", "--dense_patch=16", "--dense_stride=16"]
    assert main.main(["main", *flags, f"--workdir={root / 'runs'}"]) == 0
    assert main.main(["main", *flags, *patch, f"--workdir={root / 'runs' / 'patch'}"]) == 0
    return root / "runs", data / "part"


@pytest.fixture(scope="module")
def inspector(app_runs):
    return app.Inspector(app.finished_runs(str(app_runs[0])))


@pytest.fixture
def own_copy(app_runs, tmp_path):
    """A copy of the run of whole images, to damage."""
    shutil.copytree(app_runs[0] / IMAGE, tmp_path / "runs" / IMAGE)
    return tmp_path / "runs" / IMAGE


def start(*arguments):
    """Runs the command line in this process; returns its exit status."""
    return app.main(["app", *map(str, arguments)])


# The command line


def test_finished_runs_are_named_relative_to_the_work_directory(app_runs, tmp_path, monkeypatch):
    root = app_runs[0]
    assert app.finished_runs(str(root)) == {IMAGE: root / IMAGE, PATCH: root / PATCH}
    assert app.finished_runs(None, str(root / PATCH)) == {IMAGE: root / PATCH}
    # The folder that is searched may be a run itself, and may be the current one.
    monkeypatch.chdir(root / IMAGE)
    assert list(app.finished_runs(".")) == [IMAGE]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --workdir=DIR or --run=RUNDIR"),
        (["--workdir=.", "--run=."], "give either --workdir=DIR or --run=RUNDIR"),
        (["--workdir=missing"], "--workdir=missing: there is no such folder"),
        (["--workdir=empty"], "--workdir=empty: no finished runs there"),
        (["--run=empty"], "--run=empty: there is no results.json; has the run finished?"),
        (["--run=run", "--port=0"], "--port=0: must be from 1 to 65535"),
        (["--run=run", "--port=65536"], "--port=65536: must be from 1 to 65535"),
        (["--run=run", "--port=x"], "--port"),
        (["--run=run", "--host=no.such.host.invalid"], "--host=no.such.host.invalid: no address"),
        (["--run=run", "--hos=127.0.0.1"], "--hos"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    tmp_path, monkeypatch, capsys, arguments, message
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    status = start(*arguments)
    done = subprocess.CompletedProcess(arguments, status, *capsys.readouterr())
    assert_user_error(done, message)


def test_mistakes_are_told_before_anything_heavy_is_imported():
    code = (
        "import sys; from cutpaste_tf import app; status = app.main(['app', '--workdir=missing']);"
        "print(status, {'tensorflow', 'keras', 'gradio'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "2 set()\n", done.stderr


def test_a_port_that_is_taken(app_runs, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert start(f"--run={app_runs[0] / IMAGE}", f"--port={port}") == 2
    assert f"error: --port={port}: 127.0.0.1 cannot be listened on" in capsys.readouterr().err


@pytest.mark.parametrize("version", [None, "5.50.0", "6.9.1"])
def test_gradio_missing_or_too_old(app_runs, monkeypatch, capsys, version):
    def look_up(name):
        if version is None:
            raise app.importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(app.importlib.metadata, "version", look_up)
    assert start(f"--run={app_runs[0] / IMAGE}") == 2
    error = capsys.readouterr().err
    needed = "" if version is None else f" 6.17 or later, not {version}"
    assert error == f'error: the web page needs gradio{needed}: pip install "cutpaste-tf[app]"\n'


@pytest.mark.parametrize(
    ("host", "warned"), [("127.0.0.1", 0), ("localhost", 0), ("::1", 0), ("0.0.0.0", 1)]
)
def test_a_host_that_others_reach_is_warned_of(monkeypatch, capsys, host, warned):
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_RUN_HISTORY", "GRADIO_TEMP_DIR", "no_proxy"):
        monkeypatch.setenv(name, "")  # so that each is set back at the end
    monkeypatch.setattr(app.signal, "signal", lambda *arguments: None)

    def stop(inspector):
        raise UserError("so far")

    monkeypatch.setattr(app, "page", stop)
    with pytest.raises(UserError, match="so far"):
        app.serve(None, host, 7860)
    warnings = [x for x in capsys.readouterr().err.splitlines() if x.startswith("warning: ")]
    assert len(warnings) == warned
    if warned:
        assert "anyone who reaches it can use the page" in warnings[0]
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


# Nearest normal images


def test_nearest_is_what_scikit_learn_finds():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(60, 7)).astype(np.float32) @ np.diag([9, 1, 1, 1, 1, 1, 0.1])
    query = rng.normal(size=7)
    precision = densities.make("gde").fit(normal).precision
    for metric, options, used in (
        ("mahalanobis", {"VI": precision}, precision),
        ("euclidean", {}, None),
    ):
        search = sklearn.neighbors.NearestNeighbors(
            n_neighbors=5, algorithm="brute", metric=metric, metric_params=options or None
        )
        distances, indices = search.fit(normal).kneighbors(query[None])
        found = app.nearest(query, normal, used)
        np.testing.assert_array_equal(found[0], indices[0])
        np.testing.assert_allclose(found[1], distances[0], rtol=1e-9)
    # The same as the plain distance of whitened embeddings.
    whitener = np.linalg.cholesky(precision)
    white = np.linalg.norm((normal - query) @ whitener, axis=1)
    np.testing.assert_allclose(app.nearest(query, normal, precision, 60)[1], np.sort(white))


def test_nearest_of_fewer_images_and_of_one_that_is_among_them():
    normal = np.eye(3, dtype=np.float32)
    indices, distances = app.nearest(normal[1], normal)
    assert indices.tolist() == [1, 0, 2]  # those alike keep their order
    np.testing.assert_allclose(distances, [0, np.sqrt(2), np.sqrt(2)])


def test_neighbours_are_in_the_metric_of_the_density(app_runs, inspector):
    data = app_runs[1]
    train = sorted((data / "train" / "good").iterdir())
    query = data / "test" / "hole" / "001.png"
    for run in (IMAGE, PATCH):
        detector = inspector._detector(run)
        files = [str(path) for path in (query, *train)]
        images = pipeline.prepare(normal_split(files, files), detector.config.image_size)
        embeddings = detector.embed(images).astype(np.float64)
        difference = embeddings[1:] - embeddings[0]
        if run == IMAGE:
            difference = difference @ np.linalg.cholesky(detector.density.precision)
        expected = np.linalg.norm(difference, axis=1)
        order = np.argsort(expected)[:5]
        found = inspector.neighbours(inspector.inspect(run, str(query)))
        assert [name for _, name, _ in found] == [f"train/good/{train[i].name}" for i in order]
        np.testing.assert_allclose([d for *_, d in found], expected[order], rtol=1e-3)
        for (image, *_), i in zip(found, order, strict=True):
            np.testing.assert_array_equal(image, np.asarray(Image.open(train[i])))


def test_a_training_image_is_nearest_to_itself_and_they_are_embedded_once(
    app_runs, inspector, monkeypatch
):
    inspector._normal.cache_clear()
    counts = []
    embed = Detector.embed
    monkeypatch.setattr(
        Detector, "embed", lambda self, images: counts.append(images.count) or embed(self, images)
    )
    for name in ("003.png", "005.png"):
        finding = inspector.inspect(IMAGE, str(app_runs[1] / "train" / "good" / name))
        _, nearest, distance = inspector.neighbours(finding)[0]
        assert nearest == f"train/good/{name}"
        assert distance == pytest.approx(0.0, abs=1e-3)
    assert sorted(counts) == [1, 1, 8]


def test_data_that_have_moved(app_runs, own_copy, tmp_path):
    moved = shutil.copytree(app_runs[1], tmp_path / "elsewhere" / "part")
    config = json.loads((own_copy / "config.json").read_text())
    config["data_dir"] = str(tmp_path / "gone")
    (own_copy / "config.json").write_text(json.dumps(config))
    query = str(moved / "test" / "hole" / "000.png")
    inspector = app.Inspector({IMAGE: own_copy})
    view = app.View(inspector)
    finding = view.inspect(IMAGE, query)
    assert isinstance(finding, app.Finding)  # all else works
    images, text = view.neighbours(finding)
    assert images == []
    assert text.count("<p") == 1
    for part in ("cannot be shown", str(tmp_path / "gone"), "--data_dir"):
        assert part in text

    inspector._data_dir = str(moved.parent)
    assert len(view.neighbours(finding)[0]) == 5
    # Another folder of that name is not taken for the run's.
    (moved / "train" / "good" / "000.png").unlink()
    inspector._normal.cache_clear()
    _, text = view.neighbours(finding)
    assert "7 normal images of part, and the run was trained on 8" in text


# Scores


def test_a_score_is_what_the_detector_gives_whatever_the_file(app_runs, inspector, tmp_path):
    rng = np.random.default_rng(1)
    colour = pattern(rng, 90)[:, :70]
    deep = (pattern(rng, 50)[..., 0].astype(np.uint16) << 8) + 77
    files = {
        "a.png": colour,
        "a.tiff": colour,
        "a.webp": colour,
        "grey.bmp": colour[..., 0],
        "deep.tif": deep,
    }
    for name, pixels in files.items():
        write_image(tmp_path / name, pixels, **({"lossless": True} if "webp" in name else {}))
    for run in (IMAGE, PATCH):
        for name, pixels in files.items():
            finding = inspector.inspect(run, str(tmp_path / name))
            seen = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
            assert finding.name == name
            (score,) = inspector._detector(run).score([seen])
            assert finding.score == pytest.approx(score, rel=1e-5)
            seen = seen if seen.ndim == 3 else np.repeat(seen[..., None], 3, axis=-1)
            np.testing.assert_array_equal(finding.picture, seen)


def test_a_large_image_is_shown_smaller_in_its_proportions(inspector, tmp_path):
    path = write_image(tmp_path / "large.png", np.zeros([500, 2000, 3], np.uint8))
    finding = inspector.inspect(IMAGE, str(path))
    assert finding.picture.shape == (200, 800, 3)
    _, heat, _ = app.View(inspector).verdict(finding, thresholds.Threshold(1.0))
    assert heat.shape == (200, 800, 3)


def test_requests_at_once_get_what_they_get_one_by_one(app_runs, inspector):
    files = [str(path) for path in sorted((app_runs[1] / "test").glob("*/*.png"))]
    jobs = [(run, path) for path in files for run in (IMAGE, PATCH)]
    expected = [inspector.inspect(*job).score for job in jobs]
    fresh, barrier = app.Inspector(inspector.runs), threading.Barrier(4)

    def work(number):
        barrier.wait()  # so that all of them want what is not loaded yet
        found = []
        for run, path in jobs[number::4]:
            finding = fresh.inspect(run, path)
            found.append((finding.run, finding.score, len(fresh.neighbours(finding))))
        return found

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for number, found in enumerate(pool.map(work, range(4))):
            runs, scores, counts = zip(*found, strict=True)
            assert list(runs) == [run for run, _ in jobs[number::4]]
            np.testing.assert_allclose(scores, expected[number::4], rtol=1e-6)
            assert set(counts) == {5}


def test_the_last_runs_alone_are_kept(app_runs, inspector, monkeypatch):
    loaded = []
    detector = inspector._detector(IMAGE)
    monkeypatch.setattr(app.Inspector, "_load", lambda self, run: loaded.append(run) or detector)
    several = app.Inspector(dict.fromkeys("abcd", app_runs[0] / IMAGE))
    image = str(app_runs[1] / "test" / "good" / "000.png")
    for run in "abcaabcdba":
        several.inspect(run, image)
    assert "".join(loaded) == "abcda"  # d took the place of a


# What the page shows


def shown(box):
    """The verdict's kind, and what its facts say."""
    kind = re.match(r'<div class="verdict ([\w-]+)"', box)[1]
    return kind, dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", box))


def test_the_threshold_decides_verdict_and_colours_and_not_the_score(app_runs, inspector):
    view = app.View(inspector)
    for run in (IMAGE, PATCH):
        files = sorted((app_runs[1] / "test").glob("*/*.png"))
        finding = max((view.inspect(run, str(path)) for path in files), key=lambda f: f.score)
        below, above = (
            thresholds.Threshold(finding.score * factor) for factor in (1 - 1e-6, 1 + 1e-6)
        )
        assert shown(view.verdict(finding, below)[0])[0] == "anomalous"
        assert shown(view.verdict(finding, above)[0])[0] == "normal"
        heats = []
        for chosen in (below, thresholds.Threshold(4 * finding.score)):
            box, heat, legend = view.verdict(finding, chosen)
            assert shown(box)[1]["Anomaly score"] == f"{finding.score:.6g}"
            assert shown(box)[1]["Threshold"] == f"{chosen.value:.6g}"
            scale = Scale.of_run(inspector.runs[run], inspector._detector(run).level, chosen)
            np.testing.assert_array_equal(
                heat, app.overlay(finding.picture, scale(finding.map, finding.score))
            )
            assert "Heat map" in legend
            heats.append(heat.astype(float).mean())
        assert heats[0] > heats[1]


def test_a_kernel_density_makes_no_heat_map_and_has_plain_distances(app_runs, inspector):
    detector = inspector._detector(IMAGE)
    train = sorted(str(path) for path in (app_runs[1] / "train" / "good").iterdir())
    images = pipeline.prepare(normal_split(train, train), detector.config.image_size)
    features = detector.embed(images).astype(np.float64)
    config = dataclasses.replace(detector.config, density="kde")
    kde = Detector(config, detector.backbone, densities.make("kde").fit(features))
    inspector = app.Inspector(inspector.runs)
    inspector._detector = lambda run: kde
    view = app.View(inspector)
    finding = view.inspect(IMAGE, train[2])
    box, heat, legend = view.verdict(finding, thresholds.Threshold(finding.score - 1))
    assert shown(box)[0] == "anomalous"
    assert heat is None
    assert "makes no heat map" in legend
    expected = np.sort(np.linalg.norm(features - features[2], axis=1))[:5]
    found = [distance for *_, distance in inspector.neighbours(finding)]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_where_a_threshold_comes_from(app_runs, inspector):
    view, folder = app.View(inspector), app_runs[0] / IMAGE
    normal = ensemble.read_normal_scores(folder)
    chosen, number, percent, text = view.threshold(IMAGE)
    assert chosen == thresholds.of_run(folder)
    assert (number, percent) == (pytest.approx(chosen.value, rel=1e-5), 1.0)
    assert "own: 1% of normal images are above it, judging by 8. So few" in text

    chosen, number, percent, text = view.threshold(IMAGE, percent=20.0)
    assert chosen.value == thresholds.at_rate(normal, 0.2)
    assert (number, percent) == (pytest.approx(chosen.value, rel=1e-5), 20.0)
    assert "by this rate: 20% of normal" in text
    assert "So few" not in text

    value = float(np.sort(normal)[-2])
    chosen, number, percent, text = view.threshold(IMAGE, value=value)
    assert chosen.value == value
    assert percent == pytest.approx(100 / 8)
    assert "1 of 8 normal training images are above it" in text
    assert view.threshold(IMAGE, value=-5.0)[2] == 20.0  # the slider's end


def test_a_run_without_normal_scores_gives_no_verdict_until_one_is_typed(own_copy, app_runs):
    (own_copy / "normal_scores.csv").unlink()
    results = json.loads((own_copy / "results.json").read_text())
    results["threshold"] = None
    del results["sha256"]["normal_scores.csv"]
    (own_copy / "results.json").write_text(json.dumps(results))
    view = app.View(app.Inspector({IMAGE: own_copy}))
    chosen, number, _, text = view.threshold(IMAGE)
    assert (chosen, number) == (None, None)
    assert "No threshold" in text
    assert "type one in" in text
    finding = view.inspect(IMAGE, str(app_runs[1] / "test" / "good" / "000.png"))
    box, heat, legend = view.verdict(finding, chosen)
    assert shown(box)[0] == "no-verdict"
    assert shown(box)[1]["Anomaly score"] == f"{finding.score:.6g}"
    assert heat is None
    assert "need a threshold" in legend
    chosen, _, _, text = view.threshold(IMAGE, value=finding.score - 1.0)
    assert "Typed in" in text
    box, heat, _ = view.verdict(finding, chosen)
    assert shown(box)[0] == "anomalous"
    assert heat is not None


def test_a_broken_image_a_damaged_run_and_a_fault_are_a_message(
    app_runs, own_copy, tmp_path, monkeypatch, capsys
):
    whole = (app_runs[1] / "test" / "good" / "000.png").read_bytes()
    broken = tmp_path / "uploads" / "<b>broken.png"
    broken.parent.mkdir()
    broken.write_bytes(whole[:200])
    view = app.View(app.Inspector({IMAGE: own_copy}))
    assert view.inspect(IMAGE, None) is None
    assert shown(view.verdict(None, None)[0])[0] == "empty"

    message = view.inspect(IMAGE, str(broken))
    assert message == "<b>broken.png: damaged or truncated"
    box, heat, _ = view.verdict(message, None)
    assert shown(box)[0] == "problem"
    assert "&lt;b&gt;broken.png" in box
    assert "<b>" not in box
    assert heat is None
    assert view.neighbours(message) == ([], "")

    density = own_copy / "density.npz"
    content = density.read_bytes()
    density.write_bytes(content[:-100])
    image = str(app_runs[1] / "test" / "good" / "000.png")
    message = view.inspect(IMAGE, image)
    assert str(density) in message
    assert "damaged or altered" in message
    density.write_bytes(content)
    assert isinstance(view.inspect(IMAGE, image), app.Finding)  # and it goes on

    def fail(self, *arguments, **options):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(Detector, "evaluate", fail)
    message = view.inspect(IMAGE, image)
    assert "ZeroDivisionError" in message
    assert "secret" not in message
    assert "secret" in capsys.readouterr().err  # for a developer


# In a browser


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


def own_scores(run_dir):
    """What the run itself gave its test images."""
    with open(run_dir / "scores.csv", newline="") as file:
        return {row["path"]: float(row["score"]) for row in csv.DictReader(file)}


def use_page(browser, url, app_runs, tmp_path):
    """Does what a user does, and asks for what none may have."""
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    page.set_default_timeout(30_000)
    asked = set()
    page.on("request", lambda request: asked.add(request.url))
    page.goto(url)
    page.wait_for_selector("#verdict .empty")
    assert page.get_by_label("Threshold").input_value() != ""

    def fact(name):
        return page.inner_text(f"#verdict dl div:has(dt:text-is('{name}')) dd")

    # An image: score, verdict, heat map, nearest normal images.
    scores = own_scores(app_runs[0] / IMAGE)
    name = max(scores, key=scores.get)  # and so its heat map is not all dark
    score, image = scores[name], app_runs[1] / name
    page.set_input_files("input[type=file]", image)
    page.wait_for_selector("#verdict strong")
    assert float(fact("Anomaly score")) == pytest.approx(score, rel=1e-4)
    assert fact("Image") == image.name
    own = thresholds.of_run(app_runs[0] / IMAGE)
    (word,) = own.verdicts([score])
    assert page.inner_text("#verdict strong").lower() == word
    for selector in ("#picture img", "#heat img"):
        page.wait_for_function(
            f"document.querySelector('{selector}')?.naturalWidth === 40"
        )  # the image's own size
    page.wait_for_function("document.querySelectorAll('#gallery .thumbnail-item img').length === 5")
    captions = page.locator("#gallery .caption-label").all_inner_texts()
    assert all(re.fullmatch(r"00\d\.png\s+distance [\d.]+", caption) for caption in captions)

    # Other thresholds: the verdict flips and flips back, the score stays.
    heat = page.get_attribute("#heat img", "src")
    other = {"normal": "anomalous", "anomalous": "normal"}[word]
    page.get_by_label("Threshold").fill(str(score / 2 if word == "normal" else 2 * score))
    page.wait_for_selector(f"#verdict .{other}")
    assert float(fact("Anomaly score")) == pytest.approx(score, rel=1e-4)
    page.wait_for_function(f"document.querySelector('#heat img').src !== '{heat}'")
    page.get_by_label("Threshold").fill("")
    page.wait_for_selector("#verdict .no-verdict")
    assert float(fact("Anomaly score")) == pytest.approx(score, rel=1e-4)
    page.get_by_role("button", name="Back to the model's own threshold").click()
    page.wait_for_selector(f"#verdict .{word}")
    assert float(fact("Threshold")) == pytest.approx(own.value, rel=1e-5)

    # Another model scores the same image.
    page.get_by_label("Model").click()
    page.get_by_role("option", name=PATCH).click()
    score = own_scores(app_runs[0] / PATCH)[name]
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
    for path in (app_runs[0] / IMAGE / "config.json", image, ROOT / "setup.py", "/etc/passwd"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            opener.open(f"{url}/gradio_api/file={path}")
        assert refused.value.code in (403, 404)
