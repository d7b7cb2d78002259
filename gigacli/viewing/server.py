"""The page's server: on this machine alone, read only, for whoever knows its link.

Other users of the machine, and other pages in the same browser, can reach an address of loopback, too. So every path
begins with a token, compared in constant time; the header Host has to name this machine, or a page elsewhere could make
its own name lead here (DNS rebinding); and nothing in a path names a file.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import socketserver
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gigacli.errors import GigaError, InvalidInput, NotFound
from gigacli.viewing.answers import Answers
from gigacli.viewing.open_slides import encode

ADDRESS = "127.0.0.1"
TOKEN_BYTES = 24
IDLE_S = 60.0  # after which a connection that says nothing is closed
CROP_PX = 160  # of a tile in a list

STYLE = "sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE="
"""Of the one style that OpenSeadragon 6.1.1 puts into the page itself."""

HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            *("default-src 'none'", "script-src 'self'", f"style-src 'self' '{STYLE}'", "img-src 'self' data: blob:"),
            *("connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer. Slides are patients': nothing of them stays in a browser's cache."""

HTML, CSS, JS, JPEG, JSON, BYTES = (
    *("text/html; charset=utf-8", "text/css; charset=utf-8", "text/javascript; charset=utf-8"),
    *("image/jpeg", "application/json", "application/octet-stream"),
)
FILES = {
    "": ("gigacli.viewing", "static/view.html", HTML),
    "report.css": ("gigacli.reporting", "report.css", CSS),
    "view.css": ("gigacli.viewing", "static/view.css", CSS),
    "pane.js": ("gigacli.viewing", "static/pane.js", JS),
    "map.js": ("gigacli.viewing", "static/map.js", JS),
    "view.js": ("gigacli.viewing", "static/view.js", JS),
    "openseadragon.js": ("gigacli.viewing", "static/openseadragon/openseadragon.min.js", JS),
}
"""Everything that is a file: its name in a path, and where it is in the package."""

SLIDE = r"slide/(\d{1,9})/"
Made = tuple[bytes, str]


def _json(value: Any) -> Made:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(), JSON


def _tile(answers: Answers, numbers: list[int], _: dict[str, int]) -> Made:
    row, *place = numbers
    return answers.open.tile(row, answers.row(row), *place), JPEG


ROUTES: tuple[tuple[str, Callable[[Answers, list[int], dict[str, int]], Made]], ...] = (
    (r"slides\.json", lambda a, n, q: _json(a.slides())),
    (r"vectors\.json", lambda a, n, q: _json(a.vectors(q["embedding"], neighbours=q.get("tsne") == 1))),
    (SLIDE + r"about\.json", lambda a, n, q: _json(a.about(n[0]))),
    (SLIDE + r"outline\.json", lambda a, n, q: _json(a.outline(n[0]))),
    (SLIDE + r"near\.json", lambda a, n, q: _json(a.near(n[0], q["embedding"]))),
    (SLIDE + r"map\.json", lambda a, n, q: _json(a.tile_map(n[0], q["embedding"], q["class"]))),
    (SLIDE + r"alike\.json", lambda a, n, q: _json(a.alike(n[0], q["tile"], q["embedding"]))),
    (SLIDE + r"grid\.bin", lambda a, n, q: (a.grid(n[0]), BYTES)),
    (SLIDE + r"overview\.jpg", lambda a, n, q: (encode(a.overview(n[0])), JPEG)),
    (SLIDE + r"tile/(\d{1,9})\.jpg", lambda a, n, q: (encode(a.tile(n[0], n[1], px=CROP_PX)), JPEG)),
    (SLIDE + r"level/(\d{1,2})/(\d{1,7})_(\d{1,7})\.jpg", _tile),
)
"""Paths after the token, and what answers them: numbers of the path, and those of the query."""


class Server(ThreadingHTTPServer):
    """Answers on loopback from the moment it is made.

    Args:
        answers: What is asked.
        port: 0: any that is free.

    Raises:
        InvalidInput: Another program has the port.

    Attributes:
        answers: As given.
        token: What every path begins with.
        hosts: What the header Host may say.
        url: Link to the page.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answers: Answers, *, port: int = 0) -> None:
        self.answers, self.token = answers, secrets.token_urlsafe(TOKEN_BYTES)
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise InvalidInput(f"port {port} cannot be used: {error}", "choose another `port`, or none") from error
        self.hosts = (f"{ADDRESS}:{self.server_port}", f"localhost:{self.server_port}")
        self.url = f"http://{self.hosts[0]}/{self.token}/"
        self.files = {
            name: ((resources.files(package) / path).read_bytes(), kind)
            for name, (package, path, kind) in FILES.items()
        }

    def server_bind(self) -> None:
        """Take the port, without asking the network what this machine is called."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note that a connection broke, as when a page is closed; nobody needs to see it."""
        logging.getLogger(__name__).debug("a connection broke", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "giga", ""
    timeout = IDLE_S
    disable_nagle_algorithm, wbufsize = True, -1  # else each answer waits 40 ms for the other end to confirm its head

    def do_GET(self) -> None:
        """Answer, or say why not."""
        if refused := self._refusal():
            self._refuse(*refused)
            return
        try:
            made = self._made()
        except NotFound as error:
            self._send(HTTPStatus.NOT_FOUND, *_json({"error": error.message, "hint": error.hint}))
        except GigaError as error:
            self._send(HTTPStatus.UNPROCESSABLE_ENTITY, *_json({"error": error.message, "hint": error.hint}))
        except Exception as error:  # a damaged slide or store can raise anything, and must not take the page with it
            logging.getLogger(__name__).debug("unforeseen", exc_info=True)
            text = f"{type(error).__name__}: {error}"
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, *_json({"error": text, "hint": "run: giga validate STORE"}))
        else:
            if made is None:
                self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here")
            else:
                self._send(HTTPStatus.OK, *made)

    do_HEAD = do_GET  # noqa: N815

    def _not_allowed(self) -> None:
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "this page only reads", Allow="GET, HEAD")

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _not_allowed  # noqa: N815

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no question, as everything else is refused."""
        self._refuse(HTTPStatus(code), message or HTTPStatus(code).phrase)

    def _refusal(self) -> tuple[HTTPStatus, str] | None:
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            port = self.server.server_port
            return HTTPStatus.FORBIDDEN, f"this page is for {ADDRESS}:{port}; through ssh take the same port there"
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            return HTTPStatus.BAD_REQUEST, "this page takes nothing"
        token = urlsplit(self.path).path.removeprefix("/").partition("/")[0]
        if not self.path.startswith("/"):
            return HTTPStatus.BAD_REQUEST, "this page is no proxy"
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            return HTTPStatus.NOT_FOUND, "there is nothing here: take the whole link that giga view printed"
        return None

    def _made(self) -> Made | None:
        """What is asked for; None where there is no such thing."""
        asked = urlsplit(self.path)
        _, slash, place = asked.path.removeprefix("/").partition("/")
        if slash and place in self.server.files:
            return self.server.files[place]
        for pattern, answer in ROUTES:
            if found := re.fullmatch(pattern, place, re.ASCII):
                query = {
                    name: int(value[0])
                    for name, value in parse_qs(asked.query, max_num_fields=8).items()
                    if re.fullmatch(r"\d{1,9}", value[0], re.ASCII)
                }
                try:
                    return answer(self.server.answers, [int(number) for number in found.groups()], query)
                except KeyError as lacking:
                    if lacking.args[0] in ("embedding", "class", "tile"):
                        return None
                    raise
        return None

    def _refuse(self, status: HTTPStatus, why: str, **headers: str) -> None:
        self.close_connection = True  # what else it says is not read
        self._send(status, f"{why}\n".encode(), "text/plain; charset=utf-8", Connection="close", **headers)

    def _send(self, status: HTTPStatus, body: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        """Keep quiet: links hold the token, and only the command line speaks."""
