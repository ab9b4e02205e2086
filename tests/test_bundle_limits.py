"""Bundles that somebody else made: what their manifest and golden data say is limited before it is believed."""

from __future__ import annotations

import io
import json
import os
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydra_export import bundle, documents
from hydra_export.bundle.reading import contradictions
from hydra_export.cli import main
from hydra_export.errors import VerificationFailed
from hydra_export.verification import verify
from tests.test_verify import reseal

GOLDEN = bundle.GOLDEN
Change = Callable[[Path], object]


def _arrays(folder: Path) -> dict[str, Any]:
    with np.load(folder / GOLDEN) as arrays:
        return dict(arrays)


def _with(**added: Any) -> Change:
    return lambda folder: np.savez(folder / GOLDEN, **{**_arrays(folder), **added})


def _without(name: str) -> Change:
    return lambda folder: np.savez(folder / GOLDEN, **{n: a for n, a in _arrays(folder).items() if n != name})


def _cut(folder: Path, images: list[int]) -> None:
    arrays: dict[str, Any] = {name: array[images] for name, array in _arrays(folder).items()}
    np.savez(folder / GOLDEN, **arrays)


def _compressed(folder: Path) -> None:
    np.savez_compressed(folder / GOLDEN, **_arrays(folder))


def _many_images(folder: Path) -> None:
    arrays: dict[str, Any] = {
        name: np.zeros((60_000, *array.shape[1:]), array.dtype) for name, array in _arrays(folder).items()
    }
    np.savez_compressed(folder / GOLDEN, **arrays)


def _member(name: str, content: bytes) -> Change:
    def change(folder: Path) -> None:
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(folder / GOLDEN, "a") as archive:
            archive.writestr(name, content)

    return change


def _two_gib(folder: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**27,)})
    with zipfile.ZipFile(folder / GOLDEN, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("more.npy", "w") as more:
        more.write(header.getvalue())
        for _ in range(128):
            more.write(bytes(2**20))


def _replaced(name: str, content: bytes) -> Change:
    def change(folder: Path) -> None:
        arrays = _arrays(folder)
        del arrays[name]
        np.savez(folder / GOLDEN, **arrays)
        _member(f"{name}.npy", content)(folder)

    return change


def _header(shape: tuple[int, ...], descr: str = "|u1", fortran: bool = False) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": fortran, "shape": shape})
    return header.getvalue()


def _text_header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def _pipe(folder: Path) -> None:
    (folder / GOLDEN).unlink()
    os.mkfifo(folder / GOLDEN)


def _zeros(folder: Path) -> None:
    (folder / GOLDEN).unlink()
    (folder / GOLDEN).symlink_to("/dev/zero")


def _sparse(folder: Path) -> None:
    os.truncate(folder / GOLDEN, 2**40)


_GOLDEN: dict[str, tuple[Change, str]] = {
    "a large array more": (_two_gib, "'more.npy' does not belong in it"),
    "an array more": (_with(more=np.zeros(1)), "'more.npy' does not belong in it"),
    "a text more": (_member("readme.txt", b"hello"), "'readme.txt' does not belong in it"),
    "no array": (_member("noise.npy", b"hello"), "'noise.npy' does not belong in it"),
    "an array less": (_without("logits_k2"), "logits_k2 is not in it"),
    "an array twice": (_member("pixels.npy", b"x"), "twice"),
    "compressed": (_compressed, "is compressed"),
    "60,000 images": (_many_images, "is compressed"),
    "80 images": (lambda folder: _cut(folder, [0] * 80), "it contains 80 images; 1 to 64 are allowed"),
    "no images": (lambda folder: _cut(folder, []), "it contains 0 images"),
    "of another shape": (_with(pixels=np.zeros((4, 16, 16, 1), np.uint8)), "pixels is uint8 [4, 16, 16, 1]"),
    "of another type": (_with(logits_k2=np.zeros((4, 7), np.float32)), "logits_k2 is float32 [4, 7]"),
    "of Python's objects": (_replaced("pixels", _header((4, 16, 16, 3), "|O")), "in an unsupported layout"),
    "not in C's order": (_replaced("pixels", _header((4, 16, 16, 3), fortran=True)), "in an unsupported layout"),
    "of no bytes": (_replaced("pixels", _header((4, 16, 16, 3))), "pixels is shorter"),
    "of too many bytes": (_replaced("pixels", _header((4, 16, 16, 3)) + bytes(4000)), "pixels has another length"),
    "enormous": (_replaced("pixels", _header((4, 2**40, 2**40, 3))), "pixels is uint8"),
    "of axes below zero": (_replaced("pixels", _header((4, -16, -16, 3))), "in an unsupported layout"),
    "of no header": (_replaced("pixels", b"hello"), "magic string"),
    "of half a header": (_replaced("pixels", _header((4,))[:20]), "EOF"),
    "of a program for a header": (_replaced("pixels", _text_header("__import__('os')")), "malformed node"),
    "of a deep header": (_replaced("pixels", _text_header("(" * 9000)), ""),
    "of a long header": (_replaced("pixels", _text_header(" " * 20_000)), "header"),
    "no archive": (lambda folder: (folder / GOLDEN).write_bytes(b"hello"), "not a zip file"),
    "a pipe": (_pipe, "it is a named pipe, not a file"),
    "endless": (_zeros, "it is a device, not a file"),
    "a sparse terabyte": (_sparse, "bytes; allowed: at most 1024 MiB"),
}


@pytest.mark.parametrize("what", _GOLDEN)
def test_golden_data_are_exactly_what_the_manifest_asks_for(folder: Path, what: str) -> None:
    change, said = _GOLDEN[what]
    change(folder)
    manifest = bundle.read(folder)
    tracemalloc.start()
    try:
        with pytest.raises(VerificationFailed) as refused:
            bundle.read_golden(folder, manifest)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert said in refused.value.message


def _artifact(name: str, value: Any) -> Callable[[Any], Any]:
    return lambda m: m["artifacts"][0].update({name: value})


def _parity(name: str, value: Any) -> Callable[[Any], Any]:
    return lambda m: m["artifacts"][0]["parity"]["2"].update({name: value})


def _subnetwork(name: str, value: Any) -> Callable[[Any], Any]:
    return lambda m: m["model"]["subnetworks"][0].update({name: value})


_MANIFEST: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a bound beyond belief": (_parity("bound", 1e308), "credible is 1 to 10 times as much"),
    "a bound that golden data do not meet": (_parity("bound", 1e-30), "larger than its own bound"),
    "an error beyond the bound": (_parity("max_abs_error", 1e-2), "larger than its own bound"),
    "an error below zero": (_parity("max_abs_error", -1.0), ">= 0.0"),
    "a cosine of 2": (_parity("cosine", 2.0), "<= 1.001"),
    "an agreement of 2": (_parity("top1_agreement", 2.0), "<= 1.0"),
    "no images": (_parity("num_images", 0), ">= 1"),
    "an accuracy of 101 %": (_subnetwork("accuracy", 101.0), "<= 100.0"),
    "an accuracy below zero": (_subnetwork("accuracy", -1.0), ">= 0.0"),
    "a model of half the size": (lambda m: m["model"]["config"].update(depth=1), "parameters"),
    "GMACs of another model": (_subnetwork("gmacs", 1e300), "GMACs"),
    "a width of another model": (_subnetwork("width", 10**15), "has width"),
    "parameters of another model": (_subnetwork("params", -5), "parameters"),
    "heads beyond the model": (_subnetwork("heads", 10**15), "do not ascend"),
    "a number of 400 digits": (_subnetwork("params", 10**400), "out of range|an integer of"),
    "an artifact twice": (lambda m: m["artifacts"].append(m["artifacts"][0]), "an artifact is listed twice"),
    "heads twice": (_artifact("heads", [2, 2]), "has heads [2, 2]"),
    "a size below zero": (lambda m: m["files"][0].update(bytes=-1), ">= 0"),
    "a hash that is none": (lambda m: m["files"][0].update(sha256="x"), "matching regex"),
    "a file that Windows cannot hold": (
        lambda m: m["files"][0].update(path="onnx/NUL.x"),
        "Windows does not allow the name",
    ),
    "a deep path": (lambda m: m["files"][0].update(path="a/" * 16_000 + "a"), "at most 1024 characters"),
    "labels of other classes": (lambda m: m["model"].update(labels=["a", "b"]), "2 labels for 7 classes"),
    "a million labels": (lambda m: m["model"].update(labels=["a"] * 1_000_000), "values; at most"),
    "no inputs": (_artifact("inputs", []), "has no input or no output"),
    "a batch beyond belief": (
        lambda m: m["artifacts"][0]["inputs"][0].update(shape=[10**12, 3, 16, 16]),
        "takes 1000000000000 images at once",
    ),
}


@pytest.mark.parametrize("what", _MANIFEST)
def test_a_manifest_says_nothing_incredible(folder: Path, what: str) -> None:
    change, said = _MANIFEST[what]
    reseal(folder, change)
    with pytest.raises(VerificationFailed) as refused:
        verify(folder)
    assert any(part in refused.value.message for part in said.split("|"))


def test_a_key_twice_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"schema_version": 1', b'"schema_version": 1, "schema_version": 1'))
    with pytest.raises(VerificationFailed, match="'schema_version' twice"):
        bundle.read(folder)


def test_many_artifacts_of_many_files_are_compared_in_no_time(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    file, artifact = {"bytes": 1, "sha256": "0" * 64}, manifest["artifacts"][0]
    manifest["files"] = [{**file, "path": f"coreml/{n}/{part}"} for n in range(1_500) for part in "ab"]
    manifest["artifacts"] = [
        {**artifact, "path": f"coreml/{n}", "files": [f"coreml/{n}/a", f"coreml/{n}/b"]} for n in range(1_500)
    ]
    path.write_text(json.dumps(manifest))
    began = time.process_time()
    with pytest.raises(VerificationFailed, match="coreml/0 is listed in two ways"):  # its hash is another
        bundle.read(folder)
    assert list(contradictions(documents.decode_json(path.read_bytes(), bundle.Manifest)))
    assert time.process_time() - began < 2


@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS"])
@pytest.mark.parametrize("kind", ["pipe", "zeros", "sparse"])
def test_a_manifest_and_sums_that_are_no_files_are_not_waited_for(folder: Path, name: str, kind: str) -> None:
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "zeros":
        (folder / name).symlink_to("/dev/zero")
    else:
        (folder / name).touch()
        os.truncate(folder / name, 2**40)
    with pytest.raises(VerificationFailed, match=r"special file|bytes; allowed: at most 8 MiB"):
        verify(folder)
    if name == "manifest.json":
        assert main(["report", str(folder), "--out", str(folder.parent / "report.html")]) == 1
        assert main(["report", str(folder), "--against", str(folder), "--out", str(folder.parent / "r.html")]) == 1
