"""What finished runs say of an image."""

import concurrent.futures
import dataclasses
import threading

import numpy as np
import pytest
import scipy.spatial
from conftest import IMAGE_RUN, PATCH_RUN, pattern, write_image
from PIL import Image

from cutpaste_tf import run_folder
from cutpaste_tf.app import inspector as inspectors
from cutpaste_tf.app.inspector import Inspector
from cutpaste_tf.data import pipeline
from cutpaste_tf.data.split import normal_split
from cutpaste_tf.files import UserError
from cutpaste_tf.scoring import density as densities


def test_neighbours_are_in_the_metric_of_the_density(app_runs, inspector, monkeypatch):
    data = app_runs[1]
    train = sorted((data / "train" / "good").iterdir())
    query = data / "test" / "hole" / "001.png"
    for run in (IMAGE_RUN, PATCH_RUN):
        detector = inspector._model(run).detector
        files = [str(path) for path in (query, *train)]
        images = pipeline.prepare(normal_split(files, files), detector.preparation)
        embeddings, metric = detector.scorer.embed(images), {"metric": "euclidean"}
        names, stored = run_folder.read_embeddings(app_runs[0] / run)
        assert names == [f"train/good/{path.name}" for path in train]
        np.testing.assert_allclose(stored, embeddings[1:], rtol=1e-4, atol=1e-6)
        if run == IMAGE_RUN:
            whitener = detector.fit.density.arrays["whitener"]
            metric = {"metric": "mahalanobis", "VI": whitener @ whitener.T}
        (expected,) = scipy.spatial.distance.cdist(embeddings[:1], embeddings[1:], **metric)
        order = np.argsort(expected)[:5]
        inspection = inspector.inspect(run, str(query))
        with monkeypatch.context() as patched:  # No image is embedded for it.
            patched.setattr(detector, "scorer", None)
            found = inspector.neighbours(inspection)
        assert [name for _, name, _ in found] == [f"train/good/{train[i].name}" for i in order]
        np.testing.assert_allclose([d for *_, d in found], expected[order], rtol=1e-3)
        for (image, *_), i in zip(found, order, strict=True):
            np.testing.assert_array_equal(image, np.asarray(Image.open(train[i])))


def test_neighbours_are_those_of_unit_length_if_the_density_is(app_runs, inspector, monkeypatch):
    model, rng = inspector._model(IMAGE_RUN), np.random.default_rng(0)
    stored = rng.normal(size=(40, 4)) * rng.uniform(0.5, 5.0, (40, 1))
    density = densities.fit("gmm", stored)
    fit = dataclasses.replace(model.detector.fit, density=density)
    monkeypatch.setattr(model.detector, "fit", fit)
    white = inspectors._whiten(model, stored)
    again = inspectors._whiten(model, 3.0 * stored[:1])
    np.testing.assert_allclose(again, white[:1], rtol=1e-6)
    origin = (density.arrays["mean"] @ density.arrays["whitener"])[None]
    np.testing.assert_allclose(np.linalg.norm(white - origin, axis=1), density.score(stored))


@pytest.mark.parametrize("gone", [False, True])
def test_a_run_that_was_loaded_is_ready_for_its_first_image(own_copy, app_runs, gone, monkeypatch):
    inspector = Inspector({IMAGE_RUN: own_copy}, str(own_copy) if gone else None)
    inspector.load(IMAGE_RUN)
    for name in ("run_folder.checked", "run_folder.read_embeddings", "models.weights.load"):
        monkeypatch.setattr(f"cutpaste_tf.{name}", None)
    inspection = inspector.inspect(IMAGE_RUN, str(app_runs[1] / "test" / "good" / "000.png"))
    if gone:
        with pytest.raises(UserError, match="if the images have moved, give --data_dir"):
            inspector.neighbours(inspection)
    else:
        assert len(inspector.neighbours(inspection)) == 5


def test_a_score_is_what_the_detector_gives_whatever_the_file(app_runs, inspector, tmp_path):
    rng = np.random.default_rng(1)
    colour = pattern(rng, 90)[:, :70]
    deep = (pattern(rng, 50)[..., 0].astype(np.uint16) << 8) + 77
    files = {"a.tiff": colour, "a.webp": colour, "grey.bmp": colour[..., 0], "deep.tif": deep}
    for name, pixels in files.items():
        write_image(tmp_path / name, pixels, **({"lossless": True} if "webp" in name else {}))
    for run in (IMAGE_RUN, PATCH_RUN):
        for name, pixels in files.items():
            inspection = inspector.inspect(run, str(tmp_path / name))
            levels = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
            assert inspection.name == name
            (score,) = inspector._model(run).detector.score([levels])
            assert inspection.score == pytest.approx(score, rel=1e-5)
            levels = levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=-1)
            np.testing.assert_array_equal(inspection.picture, levels)


def test_requests_at_once_get_what_they_get_one_by_one(app_runs, inspector):
    files = [str(path) for path in sorted((app_runs[1] / "test").glob("*/*.png"))]
    jobs = [(run, path) for path in files for run in (IMAGE_RUN, PATCH_RUN)]
    expected = [inspector.inspect(*job).score for job in jobs]
    fresh, barrier = Inspector(inspector.runs), threading.Barrier(4)

    def work(number):
        barrier.wait()  # so that all of them want what is not loaded yet
        inspections = [fresh.inspect(run, path) for run, path in jobs[number::4]]
        return [(one.run, one.score, len(fresh.neighbours(one))) for one in inspections]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for number, results in enumerate(pool.map(work, range(4))):
            runs, scores, counts = zip(*results, strict=True)
            assert list(runs) == [run for run, _ in jobs[number::4]]
            np.testing.assert_allclose(scores, expected[number::4], rtol=1e-6)
            assert set(counts) == {5}
