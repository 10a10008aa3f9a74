"""Nothing is told to anyone, and nobody can listen in: what the commands connect to and open."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from conftest import ROOT, pattern, write_image

# Reports what Python asks of the network; strace also sees what native code does.
HOOK = """
import sys
def hear(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto"):
        place = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
        place = place[0] if isinstance(place, tuple) else place
        with open(FILE, "a") as file:
            file.write(f"{place if isinstance(place, (str, bytes)) else ''}\\n")
sys.addaudithook(hear)
"""
OWN = re.compile(r"^(b?'?/.*|None|localhost|127\..*|::1|::ffff:127\..*|0\.0\.0\.0|::|)$")
STRACE = ("strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmsg,sendmmsg")


def listened(tmp_path, *program):
    """Starts a program in a home of its own; returns it, and a function that tells of its end."""
    home, heard, traced = (tmp_path / name for name in ("home", "heard.txt", "traced.txt"))
    for folder in (home, tmp_path / "hook"):
        folder.mkdir()
    hook = HOOK.replace("FILE", repr(str(heard)))
    (tmp_path / "hook" / "sitecustomize.py").write_text(hook)
    names = ("ORT_DISABLE_TELEMETRY", "GRADIO_ANALYTICS_ENABLED", "GRADIO_RUN_HISTORY")
    names += ("XDG_CACHE_HOME", "HF_HUB_DISABLE_TELEMETRY", "NO_GCE_CHECK")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    strace = (*STRACE, "-o", str(traced))
    tracer = strace if _traces() else ()
    process = subprocess.Popen(
        [*tracer, sys.executable, "-m", *map(str, program)],
        cwd=ROOT,
        env=environment | {"HOME": str(home), "PYTHONPATH": f"{tmp_path / 'hook'}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )

    def check():
        places = heard.read_text().splitlines() if heard.exists() else []
        lines = traced.read_text().splitlines() if traced.exists() else []
        for line in lines:
            places += re.findall(r'inet_addr\("([^"]*)"|AF_INET6, "([^"]*)"', line)
            assert "htons(53)" not in line, line
        places = ["".join(x) if isinstance(x, tuple) else x for x in places]
        assert [place for place in places if not OWN.match(place)] == []
        found = {path.name for path in home.rglob("*") if path.is_file()}
        assert not found & {"deviceid", "onnxruntime.db"}

    return process, check


def _traces():
    if shutil.which("strace") is None:
        return False
    return subprocess.run([*STRACE, "true"], capture_output=True).returncode == 0


def run(tmp_path, *program):
    tmp_path.mkdir()
    process, check = listened(tmp_path, *program)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    check()


def test_a_prediction_by_onnx_runtime_asks_nobody(tmp_path, rng_image):
    sys.path.insert(0, str(ROOT / "tests" / "predict"))
    from graphs import write_model

    model = write_model(tmp_path / "model.onnx")
    arguments = (f"--model={model}", f"--images={rng_image}", f"--output={tmp_path / 'out'}")
    run(tmp_path / "home", "cutpaste_tf.predict", *arguments)


@pytest.fixture
def rng_image(tmp_path):
    import numpy as np

    return write_image(tmp_path / "a.png", pattern(np.random.default_rng(0)))


@pytest.mark.slow
def test_export_and_prediction_and_page_ask_nobody(tmp_path, finished, rng_image):
    run_dir = finished[0]
    arguments = (f"--run={run_dir}", f"--output={tmp_path / 'model'}", "--format=onnx")
    run(tmp_path / "export", "cutpaste_tf.export", *arguments)
    arguments = (f"--run={run_dir}", f"--images={rng_image}", f"--output={tmp_path / 'out'}")
    run(tmp_path / "predict", "cutpaste_tf.predict", *arguments)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "app").mkdir()
    arguments = ("cutpaste_tf.app", f"--run={run_dir}", f"--port={port}")
    process, check = listened(tmp_path / "app", *arguments)
    try:
        assert any(f"http://127.0.0.1:{port}" in line for line in process.stdout)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            page = answer.read().decode()
        own = {"127.0.0.1", "localhost", "www.w3.org"}
        assert set(re.findall(r"(?:src|href)=[\"']https?://([^/:\"']+)", page)) <= own
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/", headers={"Host": "evil.example"}
        )
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(request, timeout=30)
    finally:
        process.send_signal(signal.SIGTERM)
        for child in _children(process):
            child.terminate()
        process.communicate(timeout=60)
    check()


def _children(process):
    import psutil

    return psutil.Process(process.pid).children(recursive=True) if _traces() else []


RAY = """
import psutil
from cutpaste_tf import cluster
ray = cluster.start(None, "--ray")
ray.get(ray.remote(num_cpus=0.1)(lambda: None).remote())
mine = psutil.Process()
for process in (mine, *mine.children(recursive=True)):
    for one in process.net_connections():
        if one.status == psutil.CONN_LISTEN:
            print(one.laddr.ip)
ray.shutdown()
"""


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_ray_on_this_machine_listens_on_loopback_alone():
    done = subprocess.run(
        [sys.executable, "-c", RAY],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert len(done.stdout.split()) > 3
