"""One request: who may ask, what is answered. Nothing is looked up by its path but in the listing."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import time
from collections.abc import Callable, Mapping
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from hydra_export.errors import BadInput, OutputRefused, Unreadable
from hydra_export.serving.limits import LOOPBACK, Received, is_called, is_own
from hydra_export.serving.listing import INDEX, Resource

if TYPE_CHECKING:
    from hydra_export.serving.server import Server

MEASUREMENTS = "/measurements"
MOST_BYTES = 2 * 2**20  # of a record
RECEIVING_SECONDS = 20.0  # for the whole of a request
_STALLED_SECONDS = 20.0  # while an answer is sent
_DRAINING_SECONDS = 1.0
_SLOWEST = 50_000  # bytes a second, of an answer
_PIECE = 2**16
_FIXED_HEADERS = {
    "Connection": "close",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Refusal(Exception):
    """What is answered with an error's *status*."""

    def __init__(self, status: HTTPStatus, message: str, remedy: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message, self.remedy = status, message, remedy
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD of what is in the listing, and POST of a record."""

    protocol_version = "HTTP/1.1"
    timeout = _STALLED_SECONDS
    server: Server

    def setup(self) -> None:
        super().setup()
        self.headers = Message()  # until they are read
        self.rfile = io.BufferedReader(Received(self.connection, RECEIVING_SECONDS))
        self._cookie = ""

    def version_string(self) -> str:
        return "hydra-export"

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, work: Callable[[], None]) -> None:
        self.close_connection = True
        try:
            self._check_caller()
            work()
        except Refusal as refused:
            self._refuse(refused)

    def _check_caller(self) -> None:
        hosts, reached = self.headers.get_all("Host") or [], self.connection.getsockname()[0]
        if len(hosts) != 1 or not is_called(hosts[0], {*LOOPBACK, *self.server.names, reached}):
            remedy = "Open an address that the server printed."
            raise Refusal(HTTPStatus.MISDIRECTED_REQUEST, "This server does not have that name.", remedy)
        access = self.server.access
        if access is None or access.admits(self.headers.get("Cookie", "")):
            return
        path, _, query = self.path.partition("?")
        tokens = parse_qs(query, max_num_fields=10).get("token", []) if self.command == "GET" and path == "/" else []
        self._cookie = access.spend(tokens[0]) if len(tokens) == 1 else ""
        if not self._cookie:
            remedy = "Open the full address that the server printed last: each works once, for one browser."
            raise Refusal(HTTPStatus.UNAUTHORIZED, "This browser has no access.", remedy)

    def _get(self) -> None:
        path = unquote(self.path.partition("?")[0])
        resource = self.server.resources.get(INDEX if path == "/" else path.removeprefix("/"))
        if path == MEASUREMENTS:
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "This address only takes records.", "Use POST.", Allow="POST")
        if resource is None or not path.startswith("/"):
            raise Refusal(HTTPStatus.NOT_FOUND, "There is no such page.", "Start from the page.")
        headers = {"ETag": f'"{resource.sha256}"'}
        if self.headers.get("If-None-Match") == headers["ETag"] and not self._cookie:
            self._begin(HTTPStatus.NOT_MODIFIED, headers)
            return
        try:
            with resource.opened() as file:
                self._send(resource, headers, file)
        except Unreadable as error:
            raise Refusal(HTTPStatus.GONE, "This file changed while it was served.", error.remedy) from error

    def _send(self, resource: Resource, headers: dict[str, str], file: Any) -> None:
        length = {"Content-Type": resource.mime, "Content-Length": str(resource.num_bytes)}
        self._begin(HTTPStatus.OK, headers | length)
        end, left = time.monotonic() + _STALLED_SECONDS + resource.num_bytes / _SLOWEST, resource.num_bytes
        while self.command != "HEAD" and (piece := file.read(min(_PIECE, left))):
            self.connection.settimeout(max(0.001, min(_STALLED_SECONDS, end - time.monotonic())))
            self.wfile.write(piece)
            left -= len(piece)

    def _post(self) -> None:
        if self.path != MEASUREMENTS:
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "This address takes no data.", "Use GET.", Allow="GET, HEAD")
        page = f"{self.server.scheme}://{self.headers['Host'].lower()}"
        if not is_own(self.headers.get("Origin"), self.headers.get("Sec-Fetch-Site"), page):
            raise Refusal(HTTPStatus.FORBIDDEN, "Another page sent this.", "Send it from the page of this server.")
        content = self._body()
        try:
            answer = self.server.save(content)
        except BadInput as error:
            status = HTTPStatus.INTERNAL_SERVER_ERROR if isinstance(error, OutputRefused) else HTTPStatus.BAD_REQUEST
            raise Refusal(status, error.message, error.remedy) from error
        self._send_json(HTTPStatus.CREATED, answer)

    def _body(self) -> bytes:
        lengths = self.headers.get_all("Content-Length") or []
        if "Transfer-Encoding" in self.headers or len(lengths) != 1 or not lengths[0].isascii():
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "The record's size is missing.", "Send Content-Length.")
        if not lengths[0].isdigit() or len(lengths[0]) > 10 or int(lengths[0]) > MOST_BYTES:
            remedy = f"Send at most {MOST_BYTES // 2**20} MiB."
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The record is too large.", remedy)
        if self.headers.get_content_type() != "application/json":
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "This is not JSON.", "Send application/json.")
        if not self.server.rate.allows():
            seconds = f"{self.server.rate.seconds:.0f}"
            message = "Too many records were sent."
            raise Refusal(HTTPStatus.TOO_MANY_REQUESTS, message, f"Wait {seconds} seconds.", Retry_After=seconds)
        try:
            content = self.rfile.read(int(lengths[0]))
        except TimeoutError as error:
            raise Refusal(HTTPStatus.REQUEST_TIMEOUT, "The record came too slowly.", "Send it again.") from error
        if len(content) < int(lengths[0]):
            raise Refusal(HTTPStatus.BAD_REQUEST, "The record ended early.", "Send all of it.")
        return content

    # Answers

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server refuses by itself: requests that are none, and other methods."""
        self.close_connection = True
        known = code != HTTPStatus.NOT_IMPLEMENTED
        status = HTTPStatus(code) if known else HTTPStatus.METHOD_NOT_ALLOWED
        self._refuse(
            Refusal(status, f"{status.phrase}.", "Use GET or POST.", **({} if known else {"Allow": "GET, HEAD"}))
        )

    def _refuse(self, refused: Refusal) -> None:
        error = {"message": refused.message, "remedy": refused.remedy}
        self._send_json(refused.status, {"error": error}, refused.headers)
        self._drain()

    def _send_json(self, status: HTTPStatus, document: Mapping[str, Any], headers: Mapping[str, str] = {}) -> None:
        content = json.dumps(document).encode()
        about = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        self._begin(status, {**about, **headers})
        if self.command != "HEAD":
            self.wfile.write(content)

    def _begin(self, status: HTTPStatus, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        cookie = {"Set-Cookie": self._cookie} if self._cookie else {}
        for name, value in {**_FIXED_HEADERS, **self.server.headers, **headers, **cookie}.items():
            self.send_header(name, value)
        self.end_headers()

    def _drain(self) -> None:
        """Takes what is still being sent: closing before would reset the connection, and the answer be lost."""
        if not {"content-length", "transfer-encoding"} & {name.lower() for name in self.headers or ()}:
            return
        rest, taken = Received(self.connection, _DRAINING_SECONDS), 0
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while taken < 2 * MOST_BYTES and (piece := rest.read(_PIECE)):
                taken += len(piece)
