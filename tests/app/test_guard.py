"""Whom the page's server answers."""

import asyncio
import pathlib
import socket

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from cutpaste_tf.app import guard


def client(host="127.0.0.1", folder="missing"):

    app = guard.Guard(PlainTextResponse("answered"), host, pathlib.Path(folder))
    return TestClient(app, base_url="http://localhost:7860")


@pytest.mark.parametrize(
    ("host", "asked", "status"),
    [
        ("127.0.0.1", "localhost:7860", 200),
        ("127.0.0.1", "127.0.0.1", 200),
        ("::1", "[::1]:7860", 200),
        ("127.0.0.1", "evil.example", 400),
        ("127.0.0.1", "evil.example:7860", 400),
        ("127.0.0.1", "localhost.evil.example", 400),
        ("127.0.0.1", "localhost@evil.example", 400),
        ("127.0.0.1", "[", 400),
        ("127.0.0.1", "192.0.2.7:7860", 400),
        ("Station.example", "station.example:7860", 200),
        ("0.0.0.0", "192.0.2.7:7860", 200),
        ("0.0.0.0", socket.gethostname(), 200),
        ("0.0.0.0", "evil.example", 400),
    ],
)
def test_names_of_the_server_alone_are_answered(host, asked, status):
    assert client(host).get("/", headers={"host": asked}).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("http://localhost:7860", 200),
        ("http://localhost:7861", 403),
        ("http://evil.example", 403),
        ("null", 403),
    ],
)
def test_other_sites_are_not(origin, status):
    headers = {} if origin is None else {"origin": origin}
    assert client().post("/", headers=headers).status_code == status


def test_uploads_have_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "LARGEST", 10**5)
    monkeypatch.setattr(guard, "_MOST", 3 * 10**5)
    here = client(folder=tmp_path)
    assert here.post("/", content=b"x" * 10**5).status_code == 200
    assert here.post("/", content=b"x" * 2 * 10**5).status_code == 413
    (tmp_path / "kept").write_bytes(b"x" * 10**5)
    assert here.post("/", content=b"x" * 10**5).status_code == 200
    (tmp_path / "kept").write_bytes(b"x" * 25 * 10**4)
    assert here.post("/", content=b"x" * 10**5).status_code == 413
    assert here.post("/", content=b"x").status_code == 200  # not an upload: the page still answers
    assert here.post("/", content=iter([b"x"])).status_code == 411  # It does not say how long.


def test_uploads_that_come_at_the_same_time_count_together(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "_MOST", 250_000)
    statuses = []

    async def slow(scope, receive, send):
        await asyncio.sleep(0.01)
        await PlainTextResponse("answered")(scope, receive, send)

    async def send(message):
        statuses.extend([message["status"]] if "status" in message else [])

    async def ask(app):
        headers = [(b"host", b"localhost"), (b"content-length", b"100000")]
        await app({"type": "http", "method": "POST", "headers": headers}, None, send)

    async def three():
        app = guard.Guard(slow, "localhost", tmp_path)
        await asyncio.gather(*(ask(app) for _ in range(3)))

    asyncio.run(three())
    assert sorted(statuses) == [200, 200, 413]
