"""A bundle served to browsers, which run it, time it on their device and send the times back."""

from __future__ import annotations

from hydra_export.serving.lan import addresses, names
from hydra_export.serving.limits import Access
from hydra_export.serving.listing import Listing, opened
from hydra_export.serving.packages import install
from hydra_export.serving.server import Server, certified
from hydra_export.serving.static import check_replaceable, write

__all__ = [
    "Access",
    "Listing",
    "Server",
    "addresses",
    "certified",
    "check_replaceable",
    "install",
    "names",
    "opened",
    "write",
]
