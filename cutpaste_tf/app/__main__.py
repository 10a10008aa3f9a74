"""Serves a local web page on which finished runs score images, for those who inspect parts.

    python -m cutpaste_tf.app --workdir=DIR [--host=127.0.0.1] [--port=7860]
    python -m cutpaste_tf.app --run=RUNDIR

The page shows an image's verdict, its anomaly score, a heat map of where the score comes from, and
the most similar normal training images. The threshold can be changed on the page. The command needs
Gradio (extra `app`) and works without internet.
"""

import contextlib
import importlib.util
import os
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import Sequence

from cutpaste_tf import choices, cli, run_folder
from cutpaste_tf.app.inspector import Inspector
from cutpaste_tf.files import UserError, say, warn

# Nothing here imports TensorFlow or Gradio before the command line is checked.


@cli.command()
def main(arguments: Sequence[str]) -> None:
    """Runs a command line, sys.argv by default; returns the exit status, 0 after Ctrl-C."""
    parser = cli.Parser("app", __doc__)
    runs = parser.add_mutually_exclusive_group(required=True)
    runs.add_argument("--workdir", help="offer all finished runs in this folder and below it")
    runs.add_argument("--run", help="offer one finished run: WORKDIR/CATEGORY/seed_N")
    parser.add_argument("--data_dir", help="where the training images are, if they have moved")
    host = "the address to listen on; default %(default)s"
    parser.add_argument("--host", default="127.0.0.1", help=host)
    port = choices.whole(1, 65535)
    parser.add("port", port, "the port to listen on; default 7860", parse=int, default=7860)
    arguments = parser.parse_args(arguments)
    runs = finished_runs(arguments.run or arguments.workdir)
    if importlib.util.find_spec("gradio") is None:
        raise UserError('the web page needs gradio: pip install "cutpaste-tf[app]"')
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is the way to end the server.
        serve(Inspector(runs, arguments.data_dir), arguments.host, arguments.port)


def finished_runs(folder: str) -> dict[str, pathlib.Path]:
    """Returns the finished runs in a folder, or the folder itself if it is one, by name."""
    root = pathlib.Path(os.path.abspath(folder))
    paths = sorted(path.parent for path in root.rglob(run_folder.RESULTS))
    if not paths:
        raise UserError(f"{folder}: has no finished run (a folder with {run_folder.RESULTS})")
    own_name = "/".join(root.parts[-2:])
    return {own_name if path == root else path.relative_to(root).as_posix(): path for path in paths}


def serve(inspector: Inspector, host: str, port: int) -> None:
    """Serves the page until Ctrl-C or SIGTERM, which raise KeyboardInterrupt."""
    if host not in ("localhost", "127.0.0.1", "::1"):
        warn(f"warning: --host={host}: anyone who reaches this address can use the page")
    # Gradio asks its own server whether it is up, which must not go through a proxy.
    direct = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "localhost,127.0.0.1", host]
    os.environ["no_proxy"] = ",".join(filter(None, direct))
    # The uploads are removed when the server ends, by Ctrl-C or SIGTERM.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="cutpaste_tf_app_") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        from starlette.middleware import Middleware

        from cutpaste_tf.app.guard import LARGEST, Guard
        from cutpaste_tf.app.page import build_page

        blocks, options = build_page(inspector)
        guard = Middleware(Guard, host=host, folder=pathlib.Path(uploads))
        address = f"[{host}]" if ":" in host else host
        try:
            blocks.launch(
                server_name=address,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                ssr_mode=False,
                max_file_size=LARGEST,
                app_kwargs={"middleware": [guard]},
                state_session_capacity=100,
                **options,
            )
        except OSError as error:
            raise UserError(
                f"--host={host} --port={port}: the server does not start ({error})"
            ) from error
        shown = "localhost" if host in ("0.0.0.0", "::") else address
        say(f"the page is at http://{shown}:{port} until Ctrl-C")
        try:
            while True:
                time.sleep(3600)
        finally:
            blocks.close(verbose=False)


if __name__ == "__main__":
    sys.exit(main())
