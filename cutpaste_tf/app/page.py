"""The page: what an inspector finds, as Gradio's components show it."""

import html
import pathlib
import traceback

import gradio as gr
import numpy as np

from cutpaste_tf import run_folder
from cutpaste_tf import threshold as thresholds
from cutpaste_tf.app.inspector import NEAREST, Finding, Inspector
from cutpaste_tf.draw.overlay import overlay
from cutpaste_tf.files import UserError
from cutpaste_tf.threshold import Threshold

_PERCENT = (0.1, 20.0)  # the ends of the slider
_PROMPT = "Drop an image into the field to see how anomalous it looks."


class View:
    """What the page shows of an inspector's answers: arrays, numbers and HTML; never an error."""

    def __init__(self, inspector: Inspector):
        self._inspector = inspector

    def threshold(
        self, run: str, value: float | None = None, percent: float | None = None
    ) -> tuple[Threshold | None, float | None, float, str]:
        """Takes a threshold, or the one at a false-positive rate in per cent, or else the run's.

        Returns it, or None; the number to show; the rate in per cent, within the slider's ends; and
        HTML that says where it comes from.
        """
        folder = self._inspector.runs[run]
        rate = None if percent is None else percent / 100.0
        try:
            chosen = run_folder.choose_threshold(folder, value, rate)
            normal = run_folder.read_normal_scores(folder)
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
        elif not len(normal):
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
        heat = overlay(finding.picture, scale(finding.map, finding.score), scale.outlined)
        legend = "dark where the image looks as normal ones do, brightest from the threshold on."
        if not scale.absolute:
            legend = "brightest where most of the score comes from; brighter the higher the score."
        return box, heat, _line(f"Heat map: {legend}")

    def neighbours(self, finding: Finding | str | None) -> tuple[list, str]:
        """Returns the nearest normal images with their captions, and HTML to put below them."""
        if not isinstance(finding, Finding):
            return [], ""
        nearest = self._told(self._inspector.neighbours, finding)
        if isinstance(nearest, str):
            return [], _line(f"The nearest normal images cannot be shown: {nearest}", "problem")
        captioned = [
            (image, f"{pathlib.PurePosixPath(name).name}\ndistance {distance:.4g}")
            for image, name, distance in nearest
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


def build_page(inspector: Inspector):  # noqa: ANN201
    """Makes the page: Gradio's Blocks, and what to give their `launch` besides an address."""
    # Without the button that shares.
    shows = {"buttons": ["fullscreen", "download"], "format": "png", "interactive": False}
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
                    shows_one = {"height": 330, "elem_classes": "picture", **shows}
                    picture = gr.Image(label="Image", elem_id="picture", **shows_one)
                    heat = gr.Image(label="Heat map", elem_id="heat", **shows_one)
                legend = gr.HTML(padding=False)
                gr.HTML("<h2>Nearest normal images</h2>")
                gallery = gr.Gallery(
                    label="Nearest normal images",
                    show_label=False,
                    columns=NEAREST,
                    object_fit="contain",
                    elem_id="gallery",
                    **shows,
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
