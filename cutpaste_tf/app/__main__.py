"""A local web page that scores images with finished runs, for those who inspect parts.

    python -m cutpaste_tf.app --workdir=DIR [--host=127.0.0.1] [--port=7860]
    python -m cutpaste_tf.app --run=RUNDIR

The page shows an image's anomaly score, its verdict, where in the image the score comes from, and
the normal training images that are most like it. The threshold can be changed on the page. Needs
Gradio, the extra `app`, and no internet: nothing is fetched from or sent to anywhere.
"""

import contextlib
import importlib.metadata
import ipaddress
import os
import pathlib
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence

from cutpaste_tf import artifacts, command
from cutpaste_tf.app.inspector import Inspector
from cutpaste_tf.files import UserError

# Nothing here imports TensorFlow or Gradio before the command line is checked.

_GRADIO = (6, 17)  # at least


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
      argv: the command line, the program's name first; sys.argv by default.

    Returns:
      The exit status: 0 after Ctrl-C, or 2 for a mistake of the user's, told in one line on stderr.
    """
    return command.exit_status(lambda: _serve(sys.argv if argv is None else argv))


def _serve(argv):
    parser = command.Parser(prog="python -m cutpaste_tf.app", description=__doc__)
    parser.add_argument("--workdir", help="offer all finished runs below this folder")
    parser.add_argument("--run", help="offer one finished run: WORKDIR/CATEGORY/seed_N")
    parser.add_argument("--data_dir", help="where the training images are now, if they were moved")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on; 127.0.0.1")
    parser.add_argument("--port", type=int, default=7860, help="the port to listen on; 7860")
    arguments = parser.parse_args(argv[1:])
    runs = finished_runs(arguments.workdir, arguments.run)
    check_gradio()
    check_address(arguments.host, arguments.port)
    with contextlib.suppress(KeyboardInterrupt):  # That is how a server ends.
        serve(Inspector(runs, arguments.data_dir), arguments.host, arguments.port)
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
    if run and not (root / artifacts.RESULTS).is_file():
        raise UserError(f"--run={run}: there is no results.json; has the run finished?")
    if not root.is_dir():
        raise UserError(f"--workdir={workdir}: there is no such folder")
    folders = [root] if run else sorted(path.parent for path in root.rglob(artifacts.RESULTS))
    if not folders:
        raise UserError(f"--workdir={workdir}: no finished runs there; they have a results.json")
    own_name = "/".join(pathlib.Path(os.path.abspath(root)).parts[-2:])
    return {
        own_name if path == root else path.relative_to(root).as_posix(): path for path in folders
    }


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


def serve(inspector: Inspector, host: str, port: int) -> None:
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
    command.prepare_libraries()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = os.environ["GRADIO_RUN_HISTORY"] = "False"
    # Gradio asks its own server whether it is up, and must not ask by way of a proxy.
    direct = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "localhost,127.0.0.1", host]
    os.environ["no_proxy"] = ",".join(filter(None, direct))
    # What was uploaded and shown goes when the server ends, by whichever signal.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="cutpaste_tf_app_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        import cutpaste_tf.detector  # noqa: F401 - now, and not when the first image waits for it
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


if __name__ == "__main__":
    sys.exit(main())
