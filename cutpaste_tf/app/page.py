"""The web page, built from Gradio's components."""

import html
import pathlib
import traceback
from typing import Any

import gradio as gr
import numpy as np

from cutpaste_tf import run_folder
from cutpaste_tf.app.inspector import NEAREST, Inspection, Inspector
from cutpaste_tf.draw.overlay import overlay
from cutpaste_tf.files import UserError
from cutpaste_tf.threshold import Drift, Threshold

_PERCENT = (0.1, 20.0)  # the ends of the slider of false alarms
_PROMPT = "Drop an image into the field to see how anomalous it looks."


class View:
    """An inspector's answers as arrays, numbers and HTML; errors become text."""

    def __init__(self, inspector: Inspector):
        self._inspector = inspector

    def threshold(
        self, run: str, value: float | None = None, percent: float | None = None
    ) -> tuple[Threshold | None, float | None, float, str]:
        """Chooses a threshold: by a value, by a false-positive rate in percent, or the run's own.

        Returns the threshold or None, its value, its rate in percent, and HTML about it.
        """
        folder = self._inspector.runs[run]
        rate = None if percent is None else percent / 100.0
        try:
            threshold = run_folder.choose_threshold(folder, value, rate)
            scores = run_folder.read_normal_scores(folder)
        except UserError as error:
            text = str(error).replace("give --threshold", "type a threshold")
            return None, None, _PERCENT[0], _paragraph(f"No threshold: {text}", "problem")
        above, count = int((scores > threshold.value).sum()), len(scores)
        text = f"{threshold}: {above} of {count} normal training images are above it."
        rate = threshold.false_positive_rate or above / max(count, 1)
        percent = min(max(100 * rate, _PERCENT[0]), _PERCENT[1])
        return threshold, float(f"{threshold.value:.6g}"), percent, _paragraph(text)

    def inspect(self, run: str, path: str | None) -> Inspection | str | None:
        """Returns the inspection of an image, or the text of an error.

        Without an image, loads the run and returns None.
        """
        if path:
            return self._or_message(self._inspector.inspect, run, path)
        return self._or_message(self._inspector.load, run)

    def verdict(self, inspection: Inspection | str | None, threshold: Threshold | None) -> str:
        """Returns verdict and score as HTML."""
        if not isinstance(inspection, Inspection):
            return _box("problem" if inspection else "empty", inspection or _PROMPT)
        (word,) = threshold.verdicts([inspection.score]) if threshold else ["no verdict"]
        relative = threshold and threshold.relative(inspection.score)
        facts = {
            "Anomaly score": f"{inspection.score:.6g}",
            "Relative score": "none" if relative is None else f"{relative:.2f}",
            "Threshold": f"{threshold.value:.6g}" if threshold else "none",
            "Image": inspection.name,
        }
        note = _paragraph(f"The latest {Drift.ADVICE}.", "problem") if inspection.drift else ""
        return _box(word.replace(" ", "-"), word, facts) + note

    def heat_map(
        self, inspection: Inspection | str | None, threshold: Threshold | None
    ) -> tuple[np.ndarray | None, str]:
        """Returns the heat map over the image, and its legend as HTML."""
        if not isinstance(inspection, Inspection):
            return None, ""
        if inspection.map is None:
            why = "This model makes no heat maps. A run with --maps=features does."
            return None, _paragraph(why)
        if threshold is None:
            return None, _paragraph("The colours of a heat map need a threshold.")
        scale = inspection.scale(threshold)
        values = scale(inspection.map, inspection.score)
        legend = "Heat map: dark where the image is normal, bright where the score comes from."
        heat = overlay(inspection.picture, values, scale.outlined)
        return heat, _paragraph(legend)

    def neighbours(self, inspection: Inspection | str | None) -> tuple[list, str]:
        """Returns the nearest normal images with captions, and HTML to put below them."""
        if not isinstance(inspection, Inspection):
            return [], ""
        nearest = self._or_message(self._inspector.neighbours, inspection)
        if isinstance(nearest, str):
            text = f"The nearest normal images cannot be shown: {nearest}"
            return [], _paragraph(text, "problem")
        captioned = [
            (image, f"{pathlib.PurePosixPath(name).name}\ndistance {distance:.4g}")
            for image, name, distance in nearest
        ]
        text = "The smaller the distance, the more similar the network finds both images."
        return captioned, _paragraph(text)

    def _or_message(self, function, *arguments):
        """Returns the value of a function, or the text of its error."""
        try:
            return function(*arguments)
        except UserError as error:
            return " ".join(str(error).split())
        except Exception as error:  # The server goes on.
            traceback.print_exc()
            return f"Internal error ({type(error).__name__}); the server's terminal has details."


def _paragraph(text, kind="note"):
    return f'<p class="{kind}">{html.escape(text)}</p>'


def _box(kind, text, facts=None):
    cells = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in (facts or {}).items()
    )
    text = html.escape(text)
    content = f"<strong>{text}</strong><dl>{cells}</dl>" if facts else text
    return f'<div class="verdict {kind}" role="status">{content}</div>'


def build_page(inspector: Inspector) -> tuple[gr.Blocks, dict[str, Any]]:
    """Loads the first run; returns the page and options for its method `launch`."""
    # Without the button that shares the image.
    shows = {"buttons": ["fullscreen", "download"], "format": "png", "interactive": False}
    shows_one = {"height": 330, "elem_classes": "picture", **shows}
    # One event at a time sets the verdict, so that the latest verdict stays.
    in_turn = {"concurrency_id": "verdict", "concurrency_limit": 1}
    quick = {"show_progress": "hidden", "trigger_mode": "always_last", **in_turn}
    view, runs = View(inspector), list(inspector.runs)
    first, first_number, first_percent, first_text = view.threshold(runs[0])
    problem = view.inspect(runs[0], None)  # None if the run can be loaded

    with gr.Blocks(title="Anomaly inspection", fill_width=True, delete_cache=(600, 3600)) as blocks:
        inspection, threshold, path = gr.State(), gr.State(first), gr.State()
        gr.HTML(
            "<h1>Anomaly inspection</h1>How much an image differs from normal parts, where it "
            "differs, and which normal images are most similar."
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                run = gr.Dropdown(runs, value=runs[0], label="Model")
                file = gr.File(label="Image to inspect", type="filepath", height=150)
                info = (
                    "Images with a higher score are anomalous. Relative scores are 1 at the "
                    "threshold, and 0 at the median of normal images."
                )
                number = gr.Number(first_number, label="Threshold", info=info)
                info = "The share of normal images above the threshold."
                slider = {"label": "False alarms, %", "step": 0.1, "info": info}
                percent = gr.Slider(*_PERCENT, value=first_percent, **slider)
                origin = gr.HTML(first_text)
                reset = gr.Button("Back to the model's own threshold", size="sm")
            with gr.Column(scale=3, min_width=560):
                verdict = gr.HTML(view.verdict(problem, first), elem_id="verdict")
                with gr.Row():
                    picture = gr.Image(label="Image", elem_id="picture", **shows_one)
                    heat = gr.Image(label="Heat map", elem_id="heat", **shows_one)
                legend = gr.HTML(padding=False)
                gr.HTML("<h2>Nearest normal images</h2>")
                title = {"label": "Nearest normal images", "show_label": False}
                layout = {"columns": NEAREST, "object_fit": "contain", "elem_id": "gallery"}
                gallery = gr.Gallery(**title, **layout, **shows)
                below = gr.HTML(padding=False, elem_id="below")

        choice, shown = [threshold, number, percent, origin], [verdict, heat, legend]

        def choose(run, inspection, **wanted):
            values = view.threshold(run, **wanted)
            judged = inspection, values[0]
            return *values, view.verdict(*judged), *view.heat_map(*judged)

        def type_in(run, inspection, value):
            if value is None:
                return [gr.skip()] * len(choice + shown)
            values = choose(run, inspection, value=value)
            return values[0], gr.skip(), *values[2:]  # The number that the user types stays.

        def slide(run, inspection, percent):
            values = choose(run, inspection, percent=percent)
            return *values[:2], gr.skip(), *values[3:]

        def announce(path):
            return _box("empty", f"Scoring {pathlib.Path(path).name} …" if path else _PROMPT)

        def tell(inspection, threshold):
            """Shows the verdict, and clears the rest, which belongs to the image before."""
            wait = _paragraph("Searching …") if isinstance(inspection, Inspection) else ""
            return view.verdict(inspection, threshold), None, "", None, [], wait

        def show(inspection, threshold):
            picture = inspection.picture if isinstance(inspection, Inspection) else None
            return *view.heat_map(inspection, threshold), picture

        inspect, neighbours = view.inspect, view.neighbours  # Gradio has a queue for each object.

        def follow(event):
            event = event.then(announce, path, verdict, **quick)
            event = event.then(inspect, [run, path], inspection)
            judged, outputs = [inspection, threshold], [*shown, picture, gallery, below]
            event = event.then(tell, judged, outputs, **quick)
            event = event.then(show, judged, [heat, legend, picture], **quick)
            event.then(neighbours, inspection, [gallery, below])

        # An upload empties the field for the next image.
        follow(file.upload(lambda uploaded: (uploaded, None), file, [path, file]))
        follow(run.change(lambda run: view.threshold(run), run, choice, **in_turn))
        number.input(type_in, [run, inspection, number], [*choice, *shown], **quick)
        percent.input(slide, [run, inspection, percent], [*choice, *shown], **quick)
        reset.click(choose, [run, inspection], [*choice, *shown], **quick)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}
    theme = gr.themes.Default(primary_hue="blue", **fonts)
    return blocks, {"theme": theme, "css_paths": pathlib.Path(__file__).with_suffix(".css")}
