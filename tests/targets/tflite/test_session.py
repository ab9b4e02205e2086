"""Running TFLite artifacts: every runtime, any number of images, and what cannot be loaded or run."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hydra_export import targets
from hydra_export.errors import CheckFailed, UnknownName
from hydra_export.target import ExportSpec
from hydra_export.targets.tflite import session
from tests.targets.conftest import Case, MakeCheckpoint, given
from tests.targets.tflite.conftest import TFLITE, MakeFile

RUNTIMES = [runtime.name for runtime in TFLITE.runtimes("fp32")]
EVERY_RUNTIME = pytest.mark.parametrize("runtime", RUNTIMES)


def test_litert_comes_first_and_all_compute_in_float32() -> None:
    assert RUNTIMES[:2] == ["litert", "litert-compiled"]
    assert set(RUNTIMES[2:]) <= {"tensorflow"}
    assert all(runtime.exact for runtime in TFLITE.runtimes("fp32"))
    assert [runtime.name for runtime in TFLITE.runtimes("fp32") if runtime.timed] == ["litert"]


@EVERY_RUNTIME
@pytest.mark.parametrize("batch", [1, 3, "dynamic"])
@pytest.mark.parametrize("form", ["tensor", "image"])
def test_every_runtime_gives_the_same_logits_for_any_number_of_images(
    written: MakeFile, make_checkpoint: MakeCheckpoint, runtime: str, batch: int | str, form: str
) -> None:
    path, checkpoint = written(input=form, batch=batch), make_checkpoint()
    spec = ExportSpec(input=form, batch=batch)  # type: ignore[arg-type]
    first, other = TFLITE.load(path, 2), TFLITE.load(path, 2, runtime=runtime)
    for count in (1, 2, 3, 4, 7):
        logits = other.run(given(checkpoint, spec, count))
        assert logits.dtype == np.float32
        assert logits.shape == (count, 7)
        np.testing.assert_allclose(logits, first.run(given(checkpoint, spec, count)), rtol=0, atol=1e-6)


@EVERY_RUNTIME
def test_sessions_live_side_by_side(written: MakeFile, make_checkpoint: MakeCheckpoint, runtime: str) -> None:
    checkpoint = make_checkpoint()
    small, large = (TFLITE.load(written(k), k, runtime=runtime) for k in (1, 4))
    image = given(checkpoint, ExportSpec())
    once = small.run(image), large.run(image)
    np.testing.assert_array_equal(small.run(image), once[0])
    np.testing.assert_array_equal(large.run(image), once[1])
    assert not np.allclose(once[0], once[1])


@EVERY_RUNTIME
def test_a_file_that_was_replaced_is_opened_anew(
    written: MakeFile, make_checkpoint: MakeCheckpoint, runtime: str
) -> None:
    image = given(make_checkpoint(), ExportSpec())
    path = written(2)
    before = TFLITE.load(path, 2, runtime=runtime).run(image)
    content = bytearray(path.read_bytes())
    extent = max(reader_extents(path), key=lambda extent: extent[1])
    content[slice(extent[0], sum(extent))] = bytes(extent[1])  # one weight is zero now
    path.write_bytes(content)
    assert not np.allclose(TFLITE.load(path, 2, runtime=runtime).run(image), before)


def reader_extents(path: Path) -> list[tuple[int, int]]:
    from hydra_export.targets.tflite import reader

    return [(extent.start, extent.size) for extent in reader.read(path).buffers]


@EVERY_RUNTIME
def test_running_needs_no_torch_and_writes_nothing_to_the_terminal(written: MakeFile, runtime: str) -> None:
    program = f"""
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from hydra_export import targets
session = targets.get("tflite").load(Path(sys.argv[1]), 2, runtime={runtime!r})
assert session.run(np.zeros((2, 3, 16, 16), np.float32)).shape == (2, 7)
assert not {{"torch", "tensorflow"}} & sys.modules.keys()
"""
    arguments = [sys.executable, "-W", "error", "-c", program, str(written(batch="dynamic"))]
    environment = {**os.environ, "PYTHONPATH": str(Path(targets.__file__).parents[2])}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_what_python_writes_after_a_file_was_loaded_is_seen(
    written: MakeFile, capfd: pytest.CaptureFixture[str]
) -> None:
    TFLITE.load(written(), 2)
    os.write(2, b"still here\n")
    assert capfd.readouterr().err == "still here\n"


@EVERY_RUNTIME
@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 3, 8, 8), np.float32),
        np.zeros((1, 1, 16, 16), np.float32),
        np.zeros((1, 16, 16, 3), np.float32),
        np.zeros((1, 3, 16, 16), np.float64),
        np.zeros((1, 3, 16, 16), np.uint8),
    ],
    ids=lambda image: f"{image.dtype}-{image.shape}",
)
def test_another_image_than_the_graph_takes_is_a_failed_check(
    written: MakeFile, runtime: str, image: np.ndarray
) -> None:
    with pytest.raises(CheckFailed, match=r"cannot run .*tiny-k2\.tflite: it takes float32 \[1, 16, 16, 3\]"):
        TFLITE.load(written(), 2, runtime=runtime).run(image)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x1c\0\0\0TFL3" + bytes(64)])
def test_a_file_that_is_no_model_is_a_failed_check(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tflite").write_bytes(content)
    with pytest.raises(CheckFailed, match=r"x\.tflite is not a TFLite file that hydra-export wrote"):
        TFLITE.load(tmp_path / "x.tflite", 1)


def test_a_missing_file_is_a_failed_check(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"gone\.tflite cannot be read: No such file"):
        TFLITE.load(tmp_path / "gone.tflite", 1)
    with pytest.raises(CheckFailed, match="cannot be read: it is a folder, not a file"):
        TFLITE.load(tmp_path, 1)


def test_an_unknown_runtime_is_refused_with_the_nearest(written: MakeFile) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'litert'"):
        TFLITE.load(written(), 2, runtime="litrt")


@EVERY_RUNTIME
def test_the_number_of_threads_is_taken(written: MakeFile, make_checkpoint: MakeCheckpoint, runtime: str) -> None:
    logits = [
        TFLITE.load(written(), 2, threads=threads, runtime=runtime).run(given(make_checkpoint(), ExportSpec()))
        for threads in (0, 1, 2)
    ]
    np.testing.assert_allclose(logits[1], logits[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(logits[2], logits[0], rtol=0, atol=1e-6)


def test_the_interpreter_has_as_many_threads_as_were_asked_for(written: MakeFile) -> None:
    program = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from hydra_export import targets
before = len(list(Path("/proc/self/task").iterdir()))
session = targets.get("tflite").load(Path(sys.argv[1]), 2, threads=int(sys.argv[2]))
session.run(np.zeros((1, 3, 16, 16), np.float32))
print(len(list(Path("/proc/self/task").iterdir())) - before)
"""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("threads are counted in /proc, which is Linux's")
    environment = {**os.environ, "PYTHONPATH": str(Path(targets.__file__).parents[2])}
    more = [
        int(
            subprocess.run(
                [sys.executable, "-c", program, str(written()), str(threads)],
                capture_output=True,
                text=True,
                env=environment,
                check=True,
            ).stdout
        )
        for threads in (1, 3)
    ]
    assert more == [0, 2]


def test_a_runtime_that_died_is_a_failed_check_and_another_is_started(
    written: MakeFile, make_checkpoint: MakeCheckpoint
) -> None:
    image = given(make_checkpoint(), ExportSpec())
    opened = TFLITE.load(written(), 2, runtime="litert-compiled")
    before = opened.run(image)
    worker = session._worker("litert-compiled")
    assert worker._child is not None
    worker._child.kill()
    with pytest.raises(CheckFailed, match=r"litert-compiled with .*tiny-k2\.tflite was killed"):
        opened.run(image)
    np.testing.assert_array_equal(opened.run(image), before)


def test_sessions_of_one_file_run_side_by_side(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    (artifact,) = Case(TFLITE, "universal", "fp32").write(checkpoint, (1, 4), tmp_path / "out")
    image = given(checkpoint, artifact.spec, 40)
    sessions = [TFLITE.load(tmp_path / "out" / artifact.path, k) for k in (1, 4)]
    alone = [session.run(image) for session in sessions]
    assert not np.allclose(alone[0], alone[1])
    with ThreadPoolExecutor(2) as pool:
        together = [[*pool.map(lambda session: session.run(image), sessions)] for _ in range(10)]
    for answers in together:
        np.testing.assert_array_equal(answers, alone)
