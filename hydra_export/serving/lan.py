"""By which addresses and names other devices reach this machine."""

from __future__ import annotations

import contextlib
import socket

_ELSEWHERE = ("192.0.2.1", 9)  # of no host (RFC 5737): nothing is sent, the system only says from where it would be


def addresses() -> list[str]:
    """The IPv4 addresses of this machine, that of its usual network first."""
    found = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward:
        outward.connect(_ELSEWHERE)
        found.append(outward.getsockname()[0])
    with contextlib.suppress(OSError):
        found += [str(each[4][0]) for each in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    return [address for address in dict.fromkeys(found) if not address.startswith(("127.", "0."))]


def names() -> tuple[str, ...]:
    """What this machine is called in its network."""
    name = socket.gethostname().lower().partition(".")[0]
    return (name, f"{name}.local", socket.gethostname().lower())
