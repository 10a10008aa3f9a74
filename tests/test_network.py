"""Nothing is told to anyone, and nobody can listen in: what the commands connect to and open."""

import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request

import numpy as np
import psutil
import pytest
from conftest import ROOT, command, pattern, write_image

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
    """Starts a program in its own home; returns it and a function that checks it at its end."""
    home, hook = tmp_path / "home", tmp_path / "hook"
    heard, traced = tmp_path / "heard.txt", tmp_path / "traced.txt"
    for folder in (home, hook):
        folder.mkdir(parents=True)
    (hook / "sitecustomize.py").write_text(HOOK.replace("FILE", repr(str(heard))))
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    process = subprocess.Popen(
        [*((*STRACE, "-o", traced) if _traces() else ()), sys.executable, "-m", *program],
        cwd=ROOT,
        env=environment | {"HOME": str(home), "PYTHONPATH": f"{hook}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def check():
        places = heard.read_text().splitlines() if heard.exists() else []
        lines = traced.read_text().splitlines() if traced.exists() else []
        for line in lines:
            places += re.findall(r'inet_addr\("([^"]*)"|AF_INET6, "([^"]*)"', line)
            assert "htons(53)" not in line, line
        places = ["".join(x) if isinstance(x, tuple) else x for x in places]
        assert [place for place in places if not OWN.match(place)] == []
        written = {path.name for path in home.rglob("*") if path.is_file()}
        assert not written & {"deviceid", "onnxruntime.db"}

    return process, check


def _traces():
    if shutil.which("strace") is None:
        return False
    return subprocess.run([*STRACE, "true"], capture_output=True).returncode == 0


def run(tmp_path, *program):
    process, check = listened(tmp_path, *program)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    check()


@pytest.fixture
def predict_flags(tmp_path):
    image = write_image(tmp_path / "a.png", pattern(np.random.default_rng(0)))
    return "cutpaste_tf.predict", f"--images={image}", f"--output={tmp_path / 'out'}"


def test_a_prediction_by_onnx_runtime_asks_nobody(tmp_path, predict_flags, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "predict"))
    from graphs import write_model

    model = write_model(tmp_path / "model.onnx")
    run(tmp_path / "run", *predict_flags, f"--model={model}")


@pytest.mark.slow
def test_export_and_prediction_and_page_ask_nobody(tmp_path, finished, predict_flags):
    flag = f"--run={finished[0]}"
    arguments = (flag, f"--output={tmp_path / 'model'}", "--format=onnx")
    run(tmp_path / "export", "cutpaste_tf.export", *arguments)
    run(tmp_path / "predict", *predict_flags, flag)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process, check = listened(tmp_path / "app", "cutpaste_tf.app", flag, f"--port={port}")
    url = f"http://127.0.0.1:{port}"
    try:
        assert any(url in line for line in process.stdout)
        with urllib.request.urlopen(url, timeout=30) as answer:
            page = answer.read().decode()
        own = {"127.0.0.1", "localhost", "www.w3.org"}
        assert set(re.findall(r"(?:src|href)=[\"']https?://([^/:\"']+)", page)) <= own
        request = urllib.request.Request(url, headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(request, timeout=30)
    finally:
        for child in psutil.Process(process.pid).children(recursive=True):  # strace's
            child.terminate()
        process.terminate()
        process.communicate(timeout=60)
    check()


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
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment |= {"PYTHONPATH": str(ROOT)}
    done = command(program=(sys.executable, "-c", RAY), env=environment)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert len(done.stdout.split()) > 3
