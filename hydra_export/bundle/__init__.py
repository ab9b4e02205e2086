"""Bundles: a folder of artifacts with a manifest, hashes and golden data, written and read whole."""

from __future__ import annotations

from hydra_export.bundle.folder import check_replaceable, seal, silent, written
from hydra_export.bundle.golden import GOLDEN, Golden, golden_name, read_golden, write_golden
from hydra_export.bundle.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    ArtifactEntry,
    DeviceEntry,
    Manifest,
    ModelEntry,
    Quantization,
    SubnetworkEntry,
    batch,
    schema,
)
from hydra_export.bundle.reading import check_present, read
from hydra_export.bundle.sums import SUMS, FileEntry, artifact_entry, file_entry, hashed, read_sums, tree
from hydra_export.worker import Progress

__all__ = [
    "GOLDEN",
    "MANIFEST",
    "SCHEMA_VERSION",
    "SUMS",
    "ArtifactEntry",
    "DeviceEntry",
    "FileEntry",
    "Golden",
    "Manifest",
    "ModelEntry",
    "Progress",
    "Quantization",
    "SubnetworkEntry",
    "artifact_entry",
    "batch",
    "check_present",
    "check_replaceable",
    "file_entry",
    "golden_name",
    "hashed",
    "read",
    "read_golden",
    "read_sums",
    "schema",
    "seal",
    "silent",
    "tree",
    "write_golden",
    "written",
]
