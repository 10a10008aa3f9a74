"""A local web page that scores images with finished runs, for those who inspect parts.

    python -m cutpaste_tf.app --workdir=DIR [--host=127.0.0.1] [--port=7860]
    python -m cutpaste_tf.app --run=RUNDIR

The page shows an image's anomaly score, its verdict, where in the image the score comes from, and
the normal training images that are most like it. The threshold can be changed on the page. Needs
Gradio, the extra `app`, and no internet: nothing is fetched from or sent to anywhere.
"""

import contextlib
import importlib.metadata
import os
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import Sequence

from cutpaste_tf import choices, cli, run_folder
from cutpaste_tf.app.inspector import Inspector
from cutpaste_tf.files import UserError, say, scratch, warn

# Nothing here imports TensorFlow or Gradio before the command line is checked.

_GRADIO = (6, 17)  # at least: before, its pages ask others' servers for files


@cli.command()
def main(arguments: Sequence[str]) -> None:
    """Runs a command line, sys.argv by default; returns the exit status, 0 after Ctrl-C."""
    parser = cli.Parser("app", __doc__)
    parser.add_argument("--workdir", help="offer all finished runs below this folder")
    parser.add_argument("--run", help="offer one finished run: WORKDIR/CATEGORY/seed_N")
    parser.add_argument("--data_dir", help="where the training images are now, if they were moved")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on; 127.0.0.1")
    port = choices.whole(1, 65535)
    parser.add("port", port, "the port to listen on; 7860", parse=int, default=7860)
    arguments = parser.parse_args(arguments)
    runs = finished_runs(arguments.workdir, arguments.run)
    check_gradio()
    with contextlib.suppress(KeyboardInterrupt):  # That is how a server ends.
        serve(Inspector(runs, arguments.data_dir), arguments.host, arguments.port)


def finished_runs(workdir: str | None, run: str | None = None) -> dict[str, pathlib.Path]:
    """Returns the finished runs in a folder, or the one given, by CATEGORY/seed_N, sorted."""
    if bool(workdir) == bool(run):
        raise UserError("give either --workdir=DIR or --run=RUNDIR")
    root = pathlib.Path(run or workdir)
    if run and not (root / run_folder.RESULTS).is_file():
        raise UserError(f"--run={run}: there is no results.json; has the run finished?")
    if not root.is_dir():
        raise UserError(f"--workdir={workdir}: there is no such folder")
    folders = [root] if run else sorted(path.parent for path in root.rglob(run_folder.RESULTS))
    if not folders:
        raise UserError(f"--workdir={workdir}: no finished runs there; they have a results.json")
    own_name = "/".join(pathlib.Path(os.path.abspath(root)).parts[-2:])
    return {
        own_name if path == root else path.relative_to(root).as_posix(): path for path in folders
    }


def check_gradio() -> None:
    """Checks that Gradio is installed, without the seconds that its import takes."""
    try:
        version = importlib.metadata.version("gradio")
    except importlib.metadata.PackageNotFoundError:
        version = "0.0"
    if tuple(int(part) for part in version.split(".")[:2]) < _GRADIO:
        needed = f"{_GRADIO[0]}.{_GRADIO[1]}"
        raise UserError(
            f'the web page needs gradio {needed} or later: pip install "cutpaste-tf[app]"'
        )


def serve(inspector: Inspector, host: str, port: int) -> None:
    """Serves the page until Ctrl-C, which raises KeyboardInterrupt."""
    if host not in ("localhost", "127.0.0.1", "::1"):
        warn(f"warning: --host={host}: anyone who reaches it can use the page")
    # Gradio asks its own server whether it is up, and must not ask by way of a proxy.
    direct = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "localhost,127.0.0.1", host]
    os.environ["no_proxy"] = ",".join(filter(None, direct))
    # What was uploaded and shown goes when the server ends, by whichever signal.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with scratch(tempfile.gettempdir(), "cutpaste_tf_app_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        from starlette.middleware import Middleware

        import cutpaste_tf.scoring.detector  # noqa: F401 - now, and not when the first image waits for it
        from cutpaste_tf.app.guard import LARGEST, Guard
        from cutpaste_tf.app.page import build_page

        blocks, options = build_page(inspector)
        try:
            blocks.launch(
                server_name=f"[{host}]" if ":" in host else host,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                ssr_mode=False,
                pwa=False,
                max_file_size=LARGEST,
                app_kwargs={"middleware": [Middleware(Guard, host=host, folder=folder)]},
                state_session_capacity=100,
                **options,
            )
        except OSError as error:
            raise UserError(
                f"--host={host} --port={port}: the server does not start ({error})"
            ) from error
        shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, host)
        shown = f"[{shown}]" if ":" in shown else shown
        say(f"the page is at http://{shown}:{port} until Ctrl-C")
        try:
            while True:
                time.sleep(3600)
        finally:
            blocks.close(verbose=False)


if __name__ == "__main__":
    sys.exit(main())
