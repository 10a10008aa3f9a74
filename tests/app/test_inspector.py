"""What finished runs say of an image."""

import concurrent.futures
import threading

import numpy as np
import pytest
import sklearn.neighbors
from conftest import IMAGE_RUN, PATCH_RUN, pattern, write_image
from PIL import Image

from cutpaste_tf.app.inspector import Inspector, nearest
from cutpaste_tf.data import pipeline
from cutpaste_tf.data.split import normal as normal_split
from cutpaste_tf.scoring import density as densities
from cutpaste_tf.scoring.detector import Detector


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
        found = nearest(query, normal, used)
        np.testing.assert_array_equal(found[0], indices[0])
        np.testing.assert_allclose(found[1], distances[0], rtol=1e-9)
    # The same as the plain distance of whitened embeddings.
    whitener = np.linalg.cholesky(precision)
    white = np.linalg.norm((normal - query) @ whitener, axis=1)
    np.testing.assert_allclose(nearest(query, normal, precision, 60)[1], np.sort(white))


def test_nearest_of_fewer_images_and_of_one_that_is_among_them():
    normal = np.eye(3, dtype=np.float32)
    indices, distances = nearest(normal[1], normal)
    assert indices.tolist() == [1, 0, 2]  # those alike keep their order
    np.testing.assert_allclose(distances, [0, np.sqrt(2), np.sqrt(2)])


def test_neighbours_are_in_the_metric_of_the_density(app_runs, inspector):
    data = app_runs[1]
    train = sorted((data / "train" / "good").iterdir())
    query = data / "test" / "hole" / "001.png"
    for run in (IMAGE_RUN, PATCH_RUN):
        detector = inspector._model(run).detector
        files = [str(path) for path in (query, *train)]
        images = pipeline.prepare(normal_split(files, files), detector.preparation)
        embeddings = detector.embed(images).astype(np.float64)
        difference = embeddings[1:] - embeddings[0]
        if run == IMAGE_RUN:
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
        finding = inspector.inspect(IMAGE_RUN, str(app_runs[1] / "train" / "good" / name))
        _, nearest, distance = inspector.neighbours(finding)[0]
        assert nearest == f"train/good/{name}"
        assert distance == pytest.approx(0.0, abs=1e-3)
    assert sorted(counts) == [1, 1, 8]


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
    for run in (IMAGE_RUN, PATCH_RUN):
        for name, pixels in files.items():
            finding = inspector.inspect(run, str(tmp_path / name))
            seen = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
            assert finding.name == name
            (score,) = inspector._model(run).detector.score([seen])
            assert finding.score == pytest.approx(score, rel=1e-5)
            seen = seen if seen.ndim == 3 else np.repeat(seen[..., None], 3, axis=-1)
            np.testing.assert_array_equal(finding.picture, seen)


def test_requests_at_once_get_what_they_get_one_by_one(app_runs, inspector):
    files = [str(path) for path in sorted((app_runs[1] / "test").glob("*/*.png"))]
    jobs = [(run, path) for path in files for run in (IMAGE_RUN, PATCH_RUN)]
    expected = [inspector.inspect(*job).score for job in jobs]
    fresh, barrier = Inspector(inspector.runs), threading.Barrier(4)

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
    model = inspector._model(IMAGE_RUN)
    monkeypatch.setattr(Inspector, "_load", lambda self, run: loaded.append(run) or model)
    several = Inspector(dict.fromkeys("abcd", app_runs[0] / IMAGE_RUN))
    image = str(app_runs[1] / "test" / "good" / "000.png")
    for run in "abcaabcdba":
        several.inspect(run, image)
    assert "".join(loaded) == "abcda"  # d took the place of a
