"""The version of this release, as its installation says."""

from importlib.metadata import version

VERSION = version("hydra-export")
