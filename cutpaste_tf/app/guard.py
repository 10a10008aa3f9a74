"""A guard for the page's server: sites in other tabs of the browser must not reach it."""

import contextlib
import ipaddress
import os
import pathlib
import socket
import urllib.parse
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

LARGEST = 200 * 10**6  # bytes of an upload
_MOST = 2 * 2**30  # bytes of all files in the folder: uploads, and pictures that the page shows
_SMALL = 2**16  # bytes of a request that is not an upload


class Guard:
    """ASGI middleware that refuses requests for other host names, and from other pages.

    A foreign site can make its own name point to this machine (DNS rebinding), so the host name of
    a request must be the server's. Addresses have no such risk, so a server that listens on all
    addresses answers to each of them. `host` is the value of --host; `folder` keeps the uploads.
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
        """The text and status that refuse a request; None if the request is allowed."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_own_name(host):
            return "This server has another host name.", 400
        if origin is not None and origin.partition("://")[2] != host:
            return "Other sites may not use this server.", 403
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not (length.isascii() and length.isdecimal()):
            return "The request needs a Content-Length.", 411
        if int(length) <= _SMALL:
            return None
        kept = 0
        for folder, _, names in os.walk(self._folder):
            for name in names:
                with contextlib.suppress(OSError):  # Gradio moves and deletes files.
                    kept += os.stat(os.path.join(folder, name)).st_size
        if int(length) > LARGEST + _SMALL or kept + self._coming + int(length) > _MOST:
            return "The upload is too large, or the uploads together are.", 413
        return None

    def _is_own_name(self, host):
        try:
            name = urllib.parse.urlsplit(f"//{host}").hostname
            return name in self._names or (self._everywhere and bool(ipaddress.ip_address(name)))
        except ValueError:
            return False
