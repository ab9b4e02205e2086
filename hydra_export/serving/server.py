"""The server: a socket, at most so many requests at once, and what they have in common."""

from __future__ import annotations

import os
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hydra_export.errors import BadInput
from hydra_export.serving.handler import Handler
from hydra_export.serving.limits import Access, Rate
from hydra_export.serving.listing import Resource

MOST_REQUESTS = 32  # at once; others wait in the queue of the system, and hold no file and no thread here
_MOST_RECORDS, _RECORD_SECONDS = 100, 60.0  # a page sends one for each artifact
_POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'{scripts}; worker-src 'self' blob:; "
    "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


class Server(ThreadingHTTPServer):
    """Answers from a listing, and hands records on.

    Args:
        address: to bind; port 0 for any that is free.
        inline_scripts: of the page, as a policy names them.
        names: of this host, beside localhost and the address that a request reached.
        access: None where everybody may ask who reaches it.
        take: called with a record, one at a time; returns the answer, or raises BadInput.
        say: called with a line for whoever runs the server.
        tls: None for http.

    Raises:
        BadInput: the address cannot be bound.
    """

    request_queue_size = 1024
    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        resources: Mapping[str, Resource],
        *,
        inline_scripts: list[str],
        take: Callable[[bytes], dict[str, Any]],
        say: Callable[[str], None],
        names: tuple[str, ...] = (),
        access: Access | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.resources, self.names, self.access, self.say = resources, names, access, say
        self.scheme = "https" if tls else "http"
        scripts = "".join(f" {script}" for script in inline_scripts)
        self.headers = {"Content-Security-Policy": _POLICY.format(scripts=scripts)}
        self.rate = Rate(_MOST_RECORDS, _RECORD_SECONDS)
        self._take, self._taking = take, threading.Lock()
        self._free = threading.BoundedSemaphore(MOST_REQUESTS)
        try:
            super().__init__(address, Handler)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise BadInput(f"`port` {address[1]} cannot be opened: {reason}.", "Pass another, or 0 for any.") from error
        if tls:  # shakes hands when a request is read, in its own thread
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # http.server would ask DNS for a name
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        self._free.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread was started
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        error = sys.exception() if sys.version_info >= (3, 12) else sys.exc_info()[1]
        if not isinstance(error, OSError):  # connections break
            self.say(f"warning: a request failed: {type(error).__name__}: {error}")

    def save(self, content: bytes) -> dict[str, Any]:
        """The answer to a record."""
        with self._taking:
            return self._take(content)

    def server_close(self) -> None:
        with self._taking:  # what is being kept is kept whole
            super().server_close()


def certified(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS with a certificate and its key, PEM files.

    Raises:
        BadInput: they cannot be read, or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"`certificate` {certificate} and `key` {key} cannot be used: {reason}."
        raise BadInput(message, "Pass PEM files that belong together, the key without a password.") from error
    return context
