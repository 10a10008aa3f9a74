"""A local web page that scores images with finished runs, for those who inspect parts.

    python -m cutpaste_tf.app --workdir=DIR [--host=127.0.0.1] [--port=7860]
    python -m cutpaste_tf.app --run=RUNDIR

The page shows an image's anomaly score, its verdict, where in the image the score comes from, and
the normal training images that are most like it. The threshold can be changed on the page. Needs
Gradio, the extra `app`, and no internet: nothing is fetched from or sent to anywhere.
"""

import contextlib
import dataclasses
import functools
import html
import importlib.metadata
import ipaddress
import json
import os
import pathlib
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence

import numpy as np

from cutpaste_tf import ensemble
from cutpaste_tf import threshold as thresholds
from cutpaste_tf.errors import Parser, UserError
from cutpaste_tf.predict import Scale, overlay
from cutpaste_tf.threshold import Threshold

# Nothing here imports TensorFlow or Gradio before the command line is checked.

NEAREST = 5
_GRADIO = (6, 17)  # at least
_KEPT_RUNS = 3  # in memory
_SIDE, _THUMBNAIL = 800, 320  # pixels, at most, of what the page shows
_PERCENT = (0.1, 20.0)  # the ends of the slider
_PROMPT = "Drop an image into the field to see how anomalous it looks."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
      argv: the command line, the program's name first; sys.argv by default.

    Returns:
      The exit status: 0 after Ctrl-C, or 2 for a mistake of the user's, told in one line on stderr.
    """
    parser = Parser(prog="python -m cutpaste_tf.app", description=__doc__)
    parser.add_argument("--workdir", help="offer all finished runs below this folder")
    parser.add_argument("--run", help="offer one finished run: WORKDIR/CATEGORY/seed_N")
    parser.add_argument("--data_dir", help="where the training images are now, if they were moved")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on; 127.0.0.1")
    parser.add_argument("--port", type=int, default=7860, help="the port to listen on; 7860")
    try:
        arguments = parser.parse_args((sys.argv if argv is None else argv)[1:])
        runs = finished_runs(arguments.workdir, arguments.run)
        check_gradio()
        check_address(arguments.host, arguments.port)
        serve(Inspector(runs, arguments.data_dir), arguments.host, arguments.port)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass  # That is how a server ends.
    return 0


def finished_runs(workdir: str | None, run: str | None = None) -> dict[str, pathlib.Path]:
    """Finds finished runs: folders with a results.json.

    Args:
      workdir: a folder to search; None for --run.
      run: one run's folder; None for --workdir.

    Returns:
      The runs' folders by their names, CATEGORY/seed_N relative to the work directory, sorted.

    Raises:
      UserError: if there are none, or both or neither of the folders are given.
    """
    if bool(workdir) == bool(run):
        raise UserError("give either --workdir=DIR or --run=RUNDIR")
    root = pathlib.Path(run or workdir)
    if run and not (root / "results.json").is_file():
        raise UserError(f"--run={run}: there is no results.json; has the run finished?")
    if not root.is_dir():
        raise UserError(f"--workdir={workdir}: there is no such folder")
    found = [root] if run else sorted(path.parent for path in root.rglob("results.json"))
    if not found:
        raise UserError(f"--workdir={workdir}: no finished runs there; they have a results.json")
    own_name = "/".join(pathlib.Path(os.path.abspath(root)).parts[-2:])
    return {own_name if path == root else path.relative_to(root).as_posix(): path for path in found}


def check_gradio() -> None:
    """Checks that Gradio is installed, without the seconds that its import takes.

    Raises:
      UserError: if it is not, or is too old: before 6.17 its pages ask others' servers for files.
    """
    needed = "the web page needs gradio"
    try:
        version = importlib.metadata.version("gradio")
        if tuple(int(part) for part in version.split(".")[:2]) >= _GRADIO:
            return
        needed += f" {_GRADIO[0]}.{_GRADIO[1]} or later, not {version}"
    except importlib.metadata.PackageNotFoundError:
        pass
    raise UserError(f'{needed}: pip install "cutpaste-tf[app]"')


def check_address(host: str, port: int) -> None:
    """Checks that a server may listen at an address.

    Args:
      host: a name or an address.
      port: the port.

    Raises:
      UserError: if the port is none or taken, or the host is not this machine's.
    """
    if not 1 <= port <= 65535:
        raise UserError(f"--port={port}: must be from 1 to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host={host}: no address of this machine") from error
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if os.name == "posix":  # as servers do, so that a port that was just left is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise UserError(
                f"--port={port}: {host} cannot be listened on there ({error.strerror}); choose "
                "another --port or --host"
            ) from error


def serve(inspector: "Inspector", host: str, port: int) -> None:
    """Serves the page until Ctrl-C.

    Args:
      inspector: the runs.
      host: the address to listen on.
      port: the port.

    Raises:
      UserError: if the server does not start.
      KeyboardInterrupt: in the end.
    """
    loopback = host == "localhost"
    with contextlib.suppress(ValueError):
        loopback = ipaddress.ip_address(host).is_loopback
    if not loopback:
        print(f"warning: --host={host}: anyone who reaches it can use the page", file=sys.stderr)
    from cutpaste_tf.main import prepare_libraries

    prepare_libraries()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = os.environ["GRADIO_RUN_HISTORY"] = "False"
    # Gradio asks its own server whether it is up, and must not ask by way of a proxy.
    direct = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "localhost,127.0.0.1", host]
    os.environ["no_proxy"] = ",".join(filter(None, direct))
    # What was uploaded and shown goes when the server ends, by whichever signal.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="cutpaste_tf_app_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        import cutpaste_tf.evaluate  # noqa: F401 - now, and not when the first image waits for it

        blocks, options = page(inspector)
        try:
            blocks.launch(
                server_name=f"[{host}]" if ":" in host else host,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                ssr_mode=False,
                pwa=False,
                max_file_size="200mb",
                state_session_capacity=100,
                **options,
            )
        except OSError as error:
            raise UserError(f"--port={port}: the server does not start ({error})") from error
        shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, host)
        shown = f"[{shown}]" if ":" in shown else shown
        print(f"the page is at http://{shown}:{port} until Ctrl-C", flush=True)
        try:
            while True:
                time.sleep(3600)
        finally:
            blocks.close(verbose=False)


def nearest(
    query: np.ndarray, normal: np.ndarray, precision: np.ndarray | None = None, count: int = NEAREST
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the embeddings that are nearest to one.

    Args:
      query: [D].
      normal: [N, D].
      precision: [D, D], a Gaussian's: distances are then sqrt((x - y)^T precision (x - y)), those
        of whitened embeddings. Euclidean without.
      count: how many to find.

    Returns:
      The indices, int64 [min(count, N)], the nearest first, and their distances, float64.
    """
    difference = normal.astype(np.float64) - query
    weighted = difference if precision is None else difference @ precision
    squared = np.einsum("nd,nd->n", weighted, difference)
    order = np.argsort(squared, kind="stable")[:count]
    return order, np.sqrt(np.maximum(squared[order], 0.0))


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a run says of an image, whatever the threshold.

    Attributes:
      run: the run's name.
      name: the image's file name.
      score: its anomaly score.
      picture: uint8 [h, w, 3], the image, no larger than the page needs.
      prepared: uint8 [size, size, 3], as the network sees it.
      map: float32 [size, size], its anomaly map; None where the run makes none.
      scale: makes the map's `predict.Scale` of a threshold.
    """

    run: str
    name: str
    score: float
    picture: np.ndarray
    prepared: np.ndarray
    map: np.ndarray | None
    scale: Callable[[Threshold], Scale]


class Inspector:
    """Finished runs, loaded when they are first asked for, and what the page asks of them.

    The methods may be called from several threads: one of them scores at a time.

    Args:
      runs: the runs' folders by their names.
      data_dir: where the training images are, if not where the runs found them.
    """

    def __init__(self, runs: dict[str, pathlib.Path], data_dir: str | None = None):
        self.runs, self._data_dir = runs, data_dir
        self._lock = threading.Lock()
        self._detector = functools.lru_cache(_KEPT_RUNS)(self._load)
        self._normal = functools.lru_cache(_KEPT_RUNS)(self._embed_normal)

    def inspect(self, run: str, path: str) -> Finding:
        """Scores an image.

        Args:
          run: the run's name.
          path: the image's file.

        Returns:
          The finding.

        Raises:
          UserError: if the image or the run cannot be read.
        """
        from cutpaste_tf.data import pipeline, stream

        name = pathlib.Path(path).name
        try:
            image = stream.read(path)
        except UserError as error:  # Where uploads are kept says nothing to anyone.
            raise UserError(str(error).replace(path, name)) from error
        with self._lock:
            detector = self._detector(run)
            size = detector.config.image_size
            # Not by pipeline.prepare: a new tf.data set for each image leaves traces in memory.
            images = pipeline.Images(1, size, pipeline.resize(image, size)[None], None)
            found = detector.evaluate(images, maps=detector.makes_maps)
            anomaly_map = found.maps.read([0])[0] if detector.makes_maps else None
        return Finding(
            run=run,
            name=name,
            score=float(found.scores[0]),
            picture=_shrunk(image, _SIDE),
            prepared=images.stored[0].numpy(),
            map=anomaly_map,
            scale=functools.partial(Scale.of_run, self.runs[run], detector.level),
        )

    def neighbours(self, finding: Finding) -> list[tuple[np.ndarray, str, float]]:
        """Finds the normal training images that are most like an image.

        The first call for a run embeds all of them.

        Args:
          finding: of the image.

        Returns:
          Of each, the nearest first: the image, uint8 [h, w, 3], its name, and its distance: in the
          density's own metric where that is one Gaussian of whole images, Euclidean otherwise.

        Raises:
          UserError: if the run or its training images cannot be read.
        """
        import tensorflow as tf

        from cutpaste_tf.data import pipeline, stream
        from cutpaste_tf.density import GaussianDensity

        with self._lock:
            detector = self._detector(finding.run)
            split, embeddings = self._normal(finding.run)
            prepared = pipeline.Images(1, len(finding.prepared), finding.prepared[None], None)
            (query,) = detector.embed(prepared)
        gaussian = isinstance(detector.density, GaussianDensity)
        precision = detector.density.precision if gaussian else None
        result = []
        for index, distance in zip(*nearest(query, embeddings, precision), strict=True):
            image = split.images[index]
            if split.from_files:
                image = stream.read(image)
            else:
                image = pipeline.to_rgb(tf.constant(image)).numpy()
            result.append((_shrunk(image, _THUMBNAIL), split.names[index], float(distance)))
        return result

    def _load(self, run):
        from cutpaste_tf.evaluate import Detector

        return Detector.load(self.runs[run])

    def _embed_normal(self, run):
        """A run's normal training images and their embeddings."""
        from cutpaste_tf import data
        from cutpaste_tf.data import pipeline

        detector = self._detector(run)
        config = detector.config
        if self._data_dir:
            config = dataclasses.replace(config, data_dir=self._data_dir)
        results = json.loads((self.runs[run] / "results.json").read_text(encoding="utf-8"))
        try:
            split = data.load(config).train
            if len(split) != results["num_train"]:
                raise UserError(
                    f"{config.data_dir}: {len(split)} normal images of {config.category}, and the "
                    f"run was trained on {results['num_train']}"
                )
        except UserError as error:
            raise UserError(f"{error}; --data_dir says where the run's images are now") from error
        return split, detector.embed(pipeline.prepare(split, config.image_size))


def _shrunk(image, side):
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((side, side))  # never enlarges
    return np.asarray(picture)


class View:
    """What the page shows of an inspector's answers: arrays, numbers and HTML; nothing is raised.

    Args:
      inspector: the runs.
    """

    def __init__(self, inspector: Inspector):
        self._inspector = inspector

    def threshold(
        self, run: str, value: float | None = None, percent: float | None = None
    ) -> tuple[Threshold | None, float | None, float, str]:
        """Chooses a threshold.

        Args:
          run: the run's name; its own threshold is taken where nothing else is given.
          value: the threshold.
          percent: the false-positive rate.

        Returns:
          The threshold, or None where there is none; the number to show; the false-positive rate
          in per cent, within the slider's ends; and HTML that says where it comes from.
        """
        folder = self._inspector.runs[run]
        rate = None if percent is None else percent / 100.0
        try:
            chosen = thresholds.of_run(folder, value, rate)
            normal = ensemble.read_normal_scores(folder)
        except UserError as error:
            text = str(error).replace("give --threshold", "type one in")
            return None, None, _PERCENT[0], _line(f"No threshold: {text}", "problem")
        if value is None:
            rate, count = chosen.false_positive_rate, chosen.num_normal
            whose = "The model's own" if percent is None else "Chosen by this rate"
            text = f"{whose}: {100 * rate:.3g}% of normal images are above it, judging by {count}."
            if rate < thresholds.smallest_rate(count):
                least = 100 * thresholds.smallest_rate(count)
                text += f" So few can vouch for {least:.2g}% at best."
        elif normal is None or not len(normal):
            rate, text = 0.0, "Typed in."
        else:
            above = int((normal > value).sum())
            rate = above / len(normal)
            text = f"Typed in: {above} of {len(normal)} normal training images are above it."
        percent = min(max(100 * rate, _PERCENT[0]), _PERCENT[1])
        return chosen, float(f"{chosen.value:.6g}"), percent, _line(text)

    def inspect(self, run: str, path: str | None) -> Finding | str | None:
        """Returns an image's finding, or in words why there is none; None where no image is."""
        return self._told(self._inspector.inspect, run, path) if path else None

    def verdict(
        self, finding: Finding | str | None, chosen: Threshold | None
    ) -> tuple[str, np.ndarray | None, str]:
        """Returns verdict and score as HTML, the heat map over the image, and its legend."""
        if not isinstance(finding, Finding):
            return _box("problem" if finding else "empty", finding or _PROMPT), None, ""
        (word,) = chosen.verdicts([finding.score]) if chosen else ["no verdict"]
        facts = {
            "Anomaly score": f"{finding.score:.6g}",
            "Threshold": f"{chosen.value:.6g}" if chosen else "none",
            "Image": finding.name,
        }
        box = _box(word.replace(" ", "-"), word, facts)
        if finding.map is None:
            why = "This model makes no heat map: its density cannot tell where."
            return box, None, _line(why)
        if chosen is None:
            return box, None, _line("The colours of a heat map need a threshold.")
        scale = finding.scale(chosen)
        heat = overlay(finding.picture, scale(finding.map, finding.score))
        legend = "dark where the image looks as normal ones do, brightest from the threshold on."
        if not scale.absolute:
            legend = "brightest where most of the score comes from; brighter the higher the score."
        return box, heat, _line(f"Heat map: {legend}")

    def neighbours(self, finding: Finding | str | None) -> tuple[list, str]:
        """Returns the nearest normal images with their captions, and HTML to put below them."""
        if not isinstance(finding, Finding):
            return [], ""
        found = self._told(self._inspector.neighbours, finding)
        if isinstance(found, str):
            return [], _line(f"The nearest normal images cannot be shown: {found}", "problem")
        captioned = [
            (image, f"{pathlib.PurePosixPath(name).name}\ndistance {distance:.4g}")
            for image, name, distance in found
        ]
        return captioned, _line("The smaller the distance, the more alike the model finds them.")

    def _told(self, function, *arguments):
        """What a function returns, or what is wrong, in words."""
        try:
            return function(*arguments)
        except UserError as error:
            return " ".join(str(error).split())
        except Exception as error:  # The server goes on, and its terminal has the traceback.
            traceback.print_exc()
            return f"This failed, and should not have ({type(error).__name__})."


def _line(text, kind="note"):
    return f'<p class="{kind}">{html.escape(text)}</p>'


def _box(kind, text, facts=None):
    cells = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in (facts or {}).items()
    )
    text = html.escape(text)
    content = f"<strong>{text}</strong><dl>{cells}</dl>" if facts else text
    return f'<div class="verdict {kind}" role="status">{content}</div>'


_CSS = """
footer { display: none !important; }
.gradio-container .fillable { max-width: 1280px !important; padding: 12px 24px !important; }
.gradio-container .contain { width: 100%; padding: 0; }
.html-container { padding: 0 !important; }
h1 { font-size: 1.5rem !important; margin: 0 !important; }
h2 { font-size: 1.05rem !important; margin: 0 !important; }
p.note { margin: 0; color: var(--body-text-color); opacity: 0.8; }
p.problem { margin: 0; color: #b42318; font-weight: 600; }
.verdict { border: 1px solid transparent; border-radius: 8px; padding: 12px 20px; display: flex;
  flex-wrap: wrap; align-items: center; gap: 8px 36px; min-height: 84px; overflow-wrap: anywhere; }
.verdict strong { font-size: 2rem; text-transform: capitalize; }
.verdict dl { display: flex; flex-wrap: wrap; gap: 4px 28px; margin: 0; }
.verdict dt { font-size: 0.85rem; font-weight: 400; }
.verdict dd { font-size: 1.15rem; font-weight: 600; margin: 0; }
.anomalous, .normal, .no-verdict { background: #b42318; }
.normal { background: #1a7f37; }
.no-verdict { background: #57606a; }
.anomalous *, .normal *, .no-verdict * { color: white !important; }
.verdict.problem { background: #fff4e5; color: #7a3e00; border-color: #e0a458; }
.verdict.empty { border: 1px dashed #8c959f; }
.picture img { object-fit: scale-down !important; }
#gallery .grid-wrap { min-height: 0; height: auto !important; }
#gallery .thumbnail-item { aspect-ratio: auto; height: auto; display: block; }
#gallery .thumbnail-item img { height: 150px; object-fit: contain; }
#gallery .caption-label { position: static; max-width: none; white-space: pre-line; border: 0; }
"""


def page(inspector: Inspector):  # noqa: ANN201
    """Makes the page.

    Args:
      inspector: the runs.

    Returns:
      Gradio's Blocks, and what their `launch` is to be given besides the address.
    """
    import gradio as gr

    tools = {"buttons": ["fullscreen", "download"]}  # without the one that shares
    # Whatever sets the verdict waits for what does so already, so that the last one stays.
    in_turn = {"concurrency_id": "verdict", "concurrency_limit": 1}
    quick = {"show_progress": "hidden", "trigger_mode": "always_last", **in_turn}
    view, runs = View(inspector), list(inspector.runs)
    first, first_number, first_percent, first_text = view.threshold(runs[0])

    with gr.Blocks(
        title="Anomaly inspection", fill_width=True, delete_cache=(3600, 86400)
    ) as blocks:
        finding, chosen, path = gr.State(), gr.State(first), gr.State()
        gr.HTML(
            "<h1>Anomaly inspection</h1>How unlike normal parts an image looks, where in it, and "
            "which normal images are most like it."
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                run = gr.Dropdown(runs, value=runs[0], label="Model")
                file = gr.File(label="Image to inspect", type="filepath", height=150)
                number = gr.Number(
                    first_number, label="Threshold", info="Scores above it are anomalous."
                )
                percent = gr.Slider(
                    *_PERCENT,
                    value=first_percent,
                    step=0.1,
                    label="False alarms, %",
                    info="Normal images above the threshold.",
                )
                origin = gr.HTML(first_text)
                reset = gr.Button("Back to the model's own threshold", size="sm")
            with gr.Column(scale=3, min_width=560):
                verdict = gr.HTML(_box("empty", _PROMPT), elem_id="verdict")
                with gr.Row():
                    picture, heat = (
                        gr.Image(
                            label=label,
                            format="png",
                            height=330,
                            interactive=False,
                            elem_id=name,
                            elem_classes="picture",
                            **tools,
                        )
                        for label, name in (("Image", "picture"), ("Heat map", "heat"))
                    )
                legend = gr.HTML(padding=False)
                gr.HTML("<h2>Nearest normal images</h2>")
                gallery = gr.Gallery(
                    label="Nearest normal images",
                    show_label=False,
                    columns=NEAREST,
                    object_fit="contain",
                    format="png",
                    interactive=False,
                    elem_id="gallery",
                    **tools,
                )
                below = gr.HTML(padding=False, elem_id="below")

        choice, shown = [chosen, number, percent, origin], [verdict, heat, legend]

        def choose(run, finding, **wanted):
            values = view.threshold(run, **wanted)
            return *values, *view.verdict(finding, values[0])

        def type_in(run, finding, value):
            if value is None:
                values = None, None, gr.skip(), _line("Type in a threshold.")
                return *values, *view.verdict(finding, None)
            values = choose(run, finding, value=value)
            return values[0], gr.skip(), *values[2:]  # What is being typed stays.

        def slide(run, finding, percent):
            values = choose(run, finding, percent=percent)
            return *values[:2], gr.skip(), *values[3:]

        def announce(path):
            text = f"Scoring {pathlib.Path(path).name} …" if path else _PROMPT
            return _box("empty", text)

        def present(finding, chosen):
            """Shows all at once, so that no two images' findings are beside each other."""
            known = isinstance(finding, Finding)
            waiting = _line("Looking for them …") if known else ""
            image = finding.picture if known else None
            return *view.verdict(finding, chosen), image, [], waiting

        inspect, neighbours = view.inspect, view.neighbours  # one object each, and so one queue

        def follow(event):
            event = event.then(announce, path, verdict, **quick)
            event = event.then(inspect, [run, path], finding)
            event = event.then(
                present, [finding, chosen], [*shown, picture, gallery, below], **quick
            )
            event.then(neighbours, finding, [gallery, below])

        # The field is emptied, ready for the next image.
        follow(file.upload(lambda uploaded: (uploaded, None), file, [path, file]))
        follow(run.change(lambda run: view.threshold(run), run, choice, **in_turn))
        number.input(type_in, [run, finding, number], [*choice, *shown], **quick)
        percent.input(slide, [run, finding, percent], [*choice, *shown], **quick)
        reset.click(choose, [run, finding], [*choice, *shown], **quick)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}
    theme = gr.themes.Default(primary_hue="blue", **fonts)
    return blocks, {"theme": theme, "css": _CSS}


if __name__ == "__main__":
    sys.exit(main())
