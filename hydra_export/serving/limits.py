"""Who may ask the server for what, how often, and how long a connection may take."""

from __future__ import annotations

import hmac
import io
import re
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from http.cookies import CookieError, SimpleCookie

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HOST = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9.-]{1,253}))(?::[0-9]{1,5})?")
_COOKIE = "hydra_export"


def is_called(host: str, names: Iterable[str]) -> bool:
    """Whether a request that names *host* means this server: one that DNS sent here names the page's own host."""
    found = _HOST.fullmatch(host.lower())
    return found is not None and (found[1] or found[2]) in names


def is_own(origin: str | None, site: str | None, page: str) -> bool:
    """Whether what sends a request is a page of the server at *page*, or no browser: *origin* and *site* as headers."""
    return origin in (None, page) and site in (None, "same-origin")


class Access:
    """One address for each device: its token is spent on first use, for a cookie that other requests have to bring.

    Args:
        announce: called with each token that can be used next, after the first.
        is_https: whether browsers have to keep the cookie off http.
    """

    def __init__(self, announce: Callable[[str], None], *, is_https: bool = False) -> None:
        self._announce, self._lock = announce, threading.Lock()
        self._secure = "; Secure" if is_https else ""
        self._cookies: list[str] = []
        self.token = secrets.token_urlsafe(24)

    def admits(self, cookies: str) -> bool:
        """Whether the Cookie header of a request holds one that was given."""
        try:
            brought = SimpleCookie(cookies[:4096]).get(_COOKIE)
        except CookieError:
            return False
        return brought is not None and any(_same(brought.value, cookie) for cookie in self._cookies)

    def spend(self, token: str) -> str:
        """The cookie, as the header has it, for *token*; nothing where it is wrong or was spent."""
        with self._lock:
            if not _same(token, self.token):
                return ""
            self.token = secrets.token_urlsafe(24)
            cookie = secrets.token_urlsafe(24)
            self._cookies.append(cookie)
        self._announce(self.token)
        return f"{_COOKIE}={cookie}; Path=/; HttpOnly; SameSite=Strict{self._secure}"


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


class Rate:
    """At most *most* events in *seconds*."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most, self.seconds, self._lock = most, seconds, threading.Lock()
        self._times: deque[float] = deque()

    def allows(self) -> bool:
        """Whether one more is within it; then it counts."""
        with self._lock:
            now = time.monotonic()
            while self._times and self._times[0] <= now - self.seconds:
                self._times.popleft()
            if len(self._times) >= self._most:
                return False
            self._times.append(now)
            return True


class Received(io.RawIOBase):
    """What a connection sends within *seconds* in all, however slowly; TimeoutError after that."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection, self._end = connection, time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's private Buffer
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("too slow")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)
