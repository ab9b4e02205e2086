"""A thousand requests at once."""

from __future__ import annotations

import resource
import selectors
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from hydra_export.serving.server import MOST_REQUESTS
from tests.conftest import SOON
from tests.serving.conftest import Site

NUM_REQUESTS = 1000


@pytest.fixture
def many_files() -> Iterator[None]:
    """Both ends of every connection are files of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = NUM_REQUESTS + 500
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            pytest.skip(f"the system allows {hard} open files")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def handlers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "process_request_thread" in thread.name]


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


@pytest.mark.usefixtures("many_files")
def test_a_thousand_requests_at_once_are_all_answered_by_few_threads(site: Site) -> None:
    request = f"GET /bundle/manifest.json HTTP/1.1\r\nHost: {site.host}\r\n\r\n".encode()
    before, most, received = open_files(), 0, dict[socket.socket, bytes]()
    connections = [socket.socket() for _ in range(NUM_REQUESTS)]
    with selectors.DefaultSelector() as waiting:
        for connection in connections:
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", site.server.server_port))
            waiting.register(connection, selectors.EVENT_WRITE)
        while len(received) < NUM_REQUESTS or waiting.get_map():
            ready = waiting.select(SOON)
            assert ready, "no answer"
            most = max(most, len(handlers()))
            for key, event in ready:
                connection = cast(socket.socket, key.fileobj)
                if event & selectors.EVENT_WRITE:
                    connection.send(request)
                    received[connection] = b""
                    waiting.modify(connection, selectors.EVENT_READ)
                elif piece := connection.recv(2**16):
                    received[connection] += piece
                else:
                    waiting.unregister(connection)
                    connection.close()
    assert {answer.split(b"\r\n", 1)[0] for answer in received.values()} == {b"HTTP/1.1 200 OK"}
    assert len({answer.partition(b"\r\n\r\n")[2] for answer in received.values()}) == 1
    assert 0 < most <= MOST_REQUESTS
    assert site.ask("/")[0] == 200
    for thread in handlers():
        thread.join(SOON)
    assert open_files() <= before
    assert site.said == []
