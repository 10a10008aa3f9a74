"""Whom the page's server answers: a site in another tab of the browser is not to reach it."""

import ipaddress
import pathlib
import socket
import urllib.parse
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

LARGEST = 200 * 10**6  # bytes of an upload
_MOST = 2 * 2**30  # bytes of all uploads that are kept or on their way


class Guard:
    """ASGI middleware that answers requests to the server's own names, from its own page alone.

    A foreign name can be made to point to this machine (DNS rebinding), so the name decides. An
    address cannot, so a server that listens on all of them answers to each. `host` is what --host
    names, `folder` where uploads are kept.
    """

    def __init__(self, app: Any, host: str, folder: pathlib.Path):
        self._app, self._folder, self._coming = app, folder, 0
        self._everywhere = host in ("0.0.0.0", "::")
        self._names = {"localhost", "127.0.0.1", "::1", host.lower()}
        if self._everywhere:
            self._names.add(socket.gethostname().lower())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handles a request."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        refusal = self._refusal(headers)
        if refusal:
            return await PlainTextResponse(*refusal)(scope, receive, send)
        length = int(headers.get("content-length", 0))
        self._coming += length
        try:
            return await self._app(scope, receive, send)
        finally:
            self._coming -= length

    def _refusal(self, headers):
        """The text and the status for a request that is not answered; None where it is."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_own_name(host):
            return "This server has another name.", 400
        if origin is not None and origin.partition("://")[2] != host:
            return "Other sites may not ask this server.", 403
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not (length.isascii() and length.isdecimal()):
            return "How long is it?", 411
        kept = sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())
        if int(length) > LARGEST + 2**16 or kept + self._coming + int(length) > _MOST:
            return "Too large, or too much is kept already.", 413
        return None

    def _is_own_name(self, host):
        try:
            name = urllib.parse.urlsplit(f"//{host}").hostname
            return name in self._names or (self._everywhere and bool(ipaddress.ip_address(name)))
        except ValueError:
            return False
