"""Workers: what goes through, what comes back, and what happens when either side ends in whatever way."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hydra_export import errors
from hydra_export.errors import BadInput, CheckFailed, MissingExtra, UnknownName
from hydra_export.installation import install_command
from hydra_export.worker import Progress, Worker, available_memory_mib
from tests.conftest import SOON

ROOT = Path(__file__).parents[1]
HERE = "tests.test_worker"

linux = pytest.mark.skipif(sys.platform != "linux", reason="the system does not enforce memory limits")


# What the workers of these tests run


def echo(value: object) -> object:
    return value


def identify() -> list[Any]:
    return [os.getpid(), str(Path.cwd()), sys.path, tempfile.gettempdir()]


def list_inherited() -> list[int]:
    listed = [int(path.name) for path in Path("/dev/fd").iterdir() if path.exists()]
    return [descriptor for descriptor in listed if descriptor > 2 and os.get_inheritable(descriptor)]


def count_up(by: list[int] = []) -> int:  # noqa: B006 (that it is kept is the test)
    by.append(1)
    return len(by)


def tell_steps(num_steps: int, progress: Progress) -> int:
    for step in range(num_steps):
        progress("counting", step, num_steps)
    return num_steps


def hold(path: str, how: str = "sleeping", progress: Progress | None = None) -> None:
    """Never returns; *path* is a FIFO that is open, with the process's id written, for as long as it lives."""
    with open(path, "wb", buffering=0) as held:  # noqa: PTH123 (a FIFO)
        held.write(f"{os.getpid()}\n".encode())
        if progress:
            progress("holding", 0, 1)
        if how == "with a process of its own":
            subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=[held.fileno()], check=True)
        library = ctypes.PyDLL(None) if how == "holding the GIL" else ctypes.CDLL(None)
        library.sleep(600)


def meet(path: str, mode: str) -> str:
    """Returns when another one opens the FIFO at *path* in the other mode."""
    with open(path, mode):  # noqa: PTH123 (a FIFO)
        return mode


def fail_at(path: str) -> None:
    with open(path, "rb"):  # noqa: PTH123 (a FIFO)
        raise BadInput("It is wrong.", "Mend it.")


def times() -> list[float]:
    began = time.monotonic()
    time.sleep(0.2)
    return [began, time.monotonic()]


def die(how: str, words: str = "a first line\nfrom Python\n") -> None:
    sys.stdout.write(words)
    match how:
        case "abort":
            os.abort()
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(7)
        case "close":
            os.closerange(3, 256)
            ctypes.CDLL(None).sleep(600)
        case "leave another":  # which holds the pipes open
            if os.fork():
                os._exit(7)
            ctypes.CDLL(None).sleep(600)
        case _:
            os.kill(os.getpid(), int(how))


def allocate(mib: int, then: str = "") -> int:
    try:
        return int(np.ones((mib, 2**20), np.uint8).nbytes)
    except MemoryError:
        if then == "abort":
            os.abort()
        raise


def fail(how: str) -> None:
    match how:
        case "unknown":
            raise UnknownName("target", "onxn", ["onnx"])
        case "missing":
            raise MissingExtra("Target 'coreml'", "coremltools", "coreml")
        case "unread":
            raise _OfOneModule("It is odd.", "Even it.")
        case "exit":
            sys.exit("that is all")
        case "bare":
            raise MemoryError
        case _:
            raise ZeroDivisionError("by nothing")


def speak(text: bytes, times: int = 1) -> None:
    sys.stdout.write("Python out\n")
    sys.stderr.write("Python err\n")
    for _ in range(times):
        os.write(1, text)
    os.write(2, b"native err\n")


def flood() -> int:
    """Returns when somebody has cut the output."""
    for _ in range(80):
        os.write(1, b"x" * 2**20)
    while (size := os.fstat(1).st_size) >= 80 * 2**20:
        time.sleep(0.01)
    return size


def unanswerable() -> object:
    return {"step": echo}


class _OfOneModule(errors.BadData):
    """Known to the child, and to a parent that imported this module."""

    code = "of_one_module"


# Messages


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(package="tests") as shared:
        yield shared


def own_worker(memory_mib: int = 0) -> Worker:
    return Worker(memory_mib, package="tests")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -(2**63),
        2**64 - 1,
        1e-308,
        -0.0,
        float("inf"),
        "",
        "naïve ☃ \0",
        b"",
        bytes(range(256)),
        [],
        [1, [2.5, ["three", None]]],
        {"a": {"b": [1, b"2"]}},
        {3: "k", 6: "k"},
        "x" * 3_000_000,
    ],
    ids=lambda value: repr(value)[:20],
)
def test_plain_values_come_back_as_they_were(worker: Worker, value: object) -> None:
    back = worker.call(f"{HERE}:echo", value=value)
    assert repr(back) == repr(value)


def test_tuples_come_back_as_lists_and_numpy_scalars_as_pythons(worker: Worker) -> None:
    back = worker.call(f"{HERE}:echo", value=(np.float32(0.5), np.int64(7), np.bool_(True), np.float64(0.25)))
    assert repr(back) == "[0.5, 7, True, 0.25]"


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(20)[::-3],
        np.array(3.5, np.float16),
        np.zeros((0, 5), np.int8),
        np.zeros((2, 0), "U3"),
        np.array([True, False]),
        np.array([1, 2], ">i4"),
        np.array([1 + 2j], np.complex64),
        np.array(["ab", "☃"]),
        np.array([b"ab", b"\xff"]),
        np.array(["2024-09-26"], "datetime64[D]"),
        np.array([(1, [2.0, 3.0])], [("count", "<i4"), ("pair", "<f8", (2,))]),
    ],
    ids=lambda array: f"{array.dtype.str}-{list(array.shape)}",
)
def test_arrays_come_back_bit_for_bit(worker: Worker, array: np.ndarray[Any, Any]) -> None:
    back = worker.call(f"{HERE}:echo", value={"deep": [array, 1, array.copy()]})["deep"]
    for one in (back[0], back[2]):
        assert one.dtype == array.dtype
        assert one.shape == array.shape
        assert one.tobytes() == array.tobytes()
    back[0][...] = array  # writable
    assert back[1] == 1


def test_a_big_array_goes_through_whole(worker: Worker) -> None:
    array = np.random.default_rng(0).integers(0, 256, (150, 2**20), np.uint8)
    back = worker.call(f"{HERE}:echo", value=array)
    assert np.array_equal(back, array)


@pytest.mark.parametrize(
    "value",
    [object(), 1j, np.array([None]), np.zeros(2, ml_dtypes.bfloat16), Path("x")],
    ids=["object", "complex", "array of objects", "array of another library's type", "Path"],
)
def test_what_cannot_be_sent_is_refused_and_the_next_call_works(worker: Worker, value: object) -> None:
    with pytest.raises(TypeError, match="a worker does not take or return a"):
        worker.call(f"{HERE}:echo", value=value)
    assert worker.call(f"{HERE}:echo", value=1) == 1


def test_a_result_that_cannot_be_sent_is_a_failed_check(worker: Worker) -> None:
    with pytest.raises(CheckFailed, match="TypeError: a worker does not take or return a function") as caught:
        worker.call(f"{HERE}:unanswerable")
    assert "unanswerable" in caught.value.message
    assert worker.call(f"{HERE}:echo", value=1) == 1


# One process, many calls


def test_calls_share_a_process_that_is_like_ours_and_not_ours(worker: Worker) -> None:
    first, second = (worker.call(f"{HERE}:identify") for _ in range(2))
    assert first == second
    assert first[0] != os.getpid()
    assert first[1:3] == [str(Path.cwd()), sys.path]
    counts = [worker.call(f"{HERE}:count_up") for _ in range(300)]
    assert counts == list(range(counts[0], counts[0] + 300))


def test_what_the_child_starts_inherits_nothing_of_it(worker: Worker) -> None:
    assert worker.call(f"{HERE}:list_inherited") == []


def test_progress_arrives_in_order_while_the_call_runs(worker: Worker, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    assert worker.call(f"{HERE}:tell_steps", num_steps=1000, progress=lambda *step: seen.append(step)) == 1000
    assert seen == [("counting", step, 1000) for step in range(1000)]
    assert worker.call(f"{HERE}:tell_steps", num_steps=3) == 3


@pytest.mark.parametrize(
    "name", ["os:getpid", "tests:echo", "hydra_export.files:sha256", f"{HERE}.echo", f"{HERE}:os.abort"]
)
def test_functions_of_other_packages_are_not_run(worker: Worker, name: str) -> None:
    with pytest.raises(ValueError, match="is not a function that a worker may run"):
        worker.call(name)


def test_by_default_it_runs_functions_of_this_package() -> None:
    with Worker() as own:
        assert own.call("hydra_export.worker.process:_signal_name", status=-9) == "SIGKILL"
        with pytest.raises(ValueError, match="not a function"):
            own.call(f"{HERE}:identify")
        with pytest.raises(CheckFailed, match="AttributeError"):
            own.call("hydra_export.files:no_such_name")


# Errors


def test_our_errors_come_back_as_they_were_raised(worker: Worker) -> None:
    with pytest.raises(UnknownName) as unknown:
        worker.call(f"{HERE}:fail", how="unknown")
    assert (unknown.value.message, unknown.value.remedy) == ("No target 'onxn'.", "Did you mean 'onnx'?")
    with pytest.raises(MissingExtra) as missing:
        worker.call(f"{HERE}:fail", how="missing", what="The Core ML converter")
    assert str(missing.value) == f"Target 'coreml' needs coremltools. Run: {install_command('coreml')}"
    assert "raise MissingExtra(" in missing.value.__notes__[0]


def test_an_error_whose_class_only_the_child_knows_comes_back_as_its_nearest_base(tmp_path: Path) -> None:
    program = (
        "from hydra_export.worker import Worker\n"
        "from hydra_export.errors import HydraExportError\n"
        f"try: Worker(package='tests').call('{HERE}:fail', how='unread')\n"
        "except HydraExportError as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "BadData It is odd. Even it.\n"


@pytest.mark.parametrize(
    ("how", "said"),
    [("other", "ZeroDivisionError: by nothing."), ("exit", "SystemExit: that is all."), ("bare", "MemoryError.")],
)
def test_any_other_error_is_a_failed_check_that_names_it(worker: Worker, how: str, said: str) -> None:
    with pytest.raises(CheckFailed) as caught:
        worker.call(f"{HERE}:fail", how=how, what="The converter for k = 3")
    assert caught.value.message == f"The converter for k = 3 failed in {HERE}:fail: {said}"
    assert "Traceback (most recent call last)" in caught.value.__notes__[0]
    assert "in fail\n" in caught.value.__notes__[0]
    with pytest.raises(CheckFailed) as unnamed:
        worker.call(f"{HERE}:fail", how=how)
    assert unnamed.value.message == f"{HERE}:fail failed: {said}"


# Deaths


def gone(pid: int) -> bool:
    """Whether no process, not even a zombie, has this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("abort", "crashed with SIGABRT"),
        ("segfault", "crashed with SIGSEGV"),
        ("exit", "ended with exit status 7 before it was done"),
        ("leave another", "ended with exit status 7 before it was done"),
        (str(int(signal.SIGKILL)), "was killed by SIGKILL"),
        (str(int(signal.SIGTERM)), "crashed with SIGTERM"),
        ("close", "closed the pipe that it answers on"),
    ],
)
def test_a_death_is_told_with_the_last_words_and_the_next_call_starts_anew(
    how: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # which would make the worker's own care unseen
    with own_worker() as worker:
        pid, _, _, folder = worker.call(f"{HERE}:identify")
        with pytest.raises(CheckFailed) as caught:
            worker.call(f"{HERE}:die", how=how, what="The converter for k = 3", seconds=SOON)
        assert caught.value.message.startswith(f"The converter for k = 3 {said}. Its last output: a first line | ")
        assert "from Python" in caught.value.message
        assert "a first line\nfrom Python" in caught.value.__notes__[0]
        assert ("out of memory" in caught.value.remedy) == ("SIGKILL" in said)
        assert "a first line" in worker.output_tail()
        assert gone(pid)
        assert not Path(folder).exists()
        assert worker.call(f"{HERE}:identify")[0] != pid
        assert worker.output_tail() == ""


def test_a_kill_from_outside_in_mid_call_is_told(tmp_path: Path) -> None:
    pids: list[int] = []

    def shoot(_what: str, _done: int, _total: int) -> None:
        pids.append(int(os.read(fifo, 100)))
        os.kill(pids[0], signal.SIGKILL)

    os.mkfifo(tmp_path / "fifo")
    fifo = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with (
        own_worker() as worker,
        pytest.raises(CheckFailed, match=r"was killed by SIGKILL\. The system may have run out"),
    ):
        worker.call(f"{HERE}:hold", path=str(tmp_path / "fifo"), progress=shoot)
    os.close(fifo)
    assert gone(pids[0])


def test_a_death_between_calls_is_told_by_the_next_which_is_whole_again_after_it() -> None:
    with own_worker() as worker:
        os.kill(worker.call(f"{HERE}:identify")[0], signal.SIGKILL)
        with pytest.raises(CheckFailed, match="Task 2 was killed by SIGKILL"):
            worker.call(f"{HERE}:echo", value=b" " * 10**7, what="Task 2")  # more than a pipe holds
        assert worker.call(f"{HERE}:echo", value=1) == 1


def test_a_time_limit_ends_a_call(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    fifo = os.open(tmp_path / "fifo", os.O_RDWR)
    with own_worker() as worker:
        with pytest.raises(CheckFailed, match=r"The trial was stopped: it took longer than 0\.5 s"):
            worker.call(f"{HERE}:hold", path=str(tmp_path / "fifo"), what="The trial", seconds=0.5)
        with pytest.raises(CheckFailed, match=r"took longer than 0\.1 s"):  # and never stops talking
            worker.call(f"{HERE}:tell_steps", num_steps=10**9, seconds=0.1)
        assert worker.call(f"{HERE}:echo", value=1, seconds=SOON) == 1
    os.close(fifo)


@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenPipeError, TimeoutError, EOFError])
def test_an_error_of_the_parent_in_mid_call_ends_the_worker(worker: Worker, error: type[BaseException]) -> None:
    def interrupt(_what: str, _done: int, _total: int) -> None:
        raise error

    pid = worker.call(f"{HERE}:identify")[0]
    with pytest.raises(error):
        worker.call(f"{HERE}:tell_steps", num_steps=100_000, progress=interrupt)
    assert gone(pid)
    assert worker.call(f"{HERE}:echo", value="as before") == "as before"


def test_what_the_child_started_ends_with_it(tmp_path: Path) -> None:
    with own_worker() as worker:
        with pytest.raises(KeyboardInterrupt):
            hold_until(worker, tmp_path / "fifo", KeyboardInterrupt, how="with a process of its own")
        assert worker.output_tail() == ""


def hold_until(worker: Worker, path: Path, error: type[BaseException], how: str) -> None:
    """Raises *error* once the child holds the FIFO; returns when nobody holds it any more."""

    def stop(_what: str, _done: int, _total: int) -> None:
        raise error

    os.mkfifo(path)
    fifo = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        worker.call(f"{HERE}:hold", path=str(path), how=how, progress=stop)
    finally:
        await_end(fifo)


def await_end(fifo: int) -> bytes:
    """What is left to read of *fifo* when its last writer has ended."""
    content = b""
    while True:
        assert select.select([fifo], [], [], SOON)[0], "it is still held"
        part = os.read(fifo, 1000)
        if not part:
            os.close(fifo)
            return content
        content += part


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("how", ["sleeping", "holding the GIL"])
def test_no_child_outlives_its_parent(tmp_path: Path, end: signal.Signals, how: str) -> None:
    if how == "holding the GIL" and sys.platform != "linux":
        pytest.skip("only Linux ends a process that holds the GIL")
    os.mkfifo(tmp_path / "fifo")
    program = (
        "import signal, sys\n"
        "from hydra_export.worker import Worker\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a shell's background jobs ignore
        f"Worker(package='tests').call('{HERE}:hold', path=sys.argv[1], how=sys.argv[2])\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "fifo"), how]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as parent:
        fifo = os.open(tmp_path / "fifo", os.O_RDONLY)  # waits for the child
        pid = int(os.read(fifo, 100))
        assert not gone(pid)
        parent.send_signal(end)
        assert await_end(fifo) == b""
        assert parent.wait(SOON) != 0


def test_nothing_is_left_behind() -> None:
    def num_open_files() -> int:
        return len(list(Path("/dev/fd").iterdir()))

    before, pids, folders = num_open_files(), [], []
    for how in ("abort", "exit", ""):
        with own_worker() as worker:
            pid, _, _, folder = worker.call(f"{HERE}:identify")
            pids.append(pid)
            folders.append(folder)
            if how:
                with pytest.raises(CheckFailed):
                    worker.call(f"{HERE}:die", how=how)
    assert num_open_files() == before
    assert not any(Path(folder).exists() for folder in folders)
    assert all(map(gone, pids))


def test_a_worker_that_nobody_closed_ends_when_it_is_collected() -> None:
    worker = own_worker()
    pid, _, _, folder = worker.call(f"{HERE}:identify")
    del worker
    gc.collect()
    assert gone(pid)
    assert not Path(folder).exists()


def test_a_program_that_closes_nothing_ends_cleanly_and_a_fork_of_it_has_no_say_in_that() -> None:
    program = (
        "import gc, os, warnings\n"
        "from hydra_export.worker import Worker\n"
        f"worker = Worker(package='tests'); pid, _, _, folder = worker.call('{HERE}:identify')\n"
        "fork = os.fork()\n"
        "if not fork: warnings.simplefilter('ignore'); del worker; gc.collect(); os._exit(0)\n"
        "os.waitpid(fork, 0)\n"
        f"assert worker.call('{HERE}:identify')[0] == pid and os.path.isdir(folder)\n"
        "print(pid, folder)\n"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr == ""
    pid, folder = done.stdout.split()
    assert gone(int(pid))
    assert not Path(folder).exists()


def test_a_worker_that_was_killed_takes_no_more_calls(tmp_path: Path) -> None:
    worker = own_worker()

    def kill(_what: str, _done: int, _total: int) -> None:
        threading.Thread(target=worker.kill).start()

    os.mkfifo(tmp_path / "fifo")
    fifo = os.open(tmp_path / "fifo", os.O_RDWR)
    with pytest.raises(CheckFailed, match="Task 1 was stopped"):
        worker.call(f"{HERE}:hold", path=str(tmp_path / "fifo"), progress=kill, what="Task 1")
    with pytest.raises(CheckFailed, match="The worker was stopped"):
        worker.call(f"{HERE}:echo", value=1)
    os.close(fifo)


# Output


def test_what_the_child_prints_is_kept_off_ours(capfd: pytest.CaptureFixture[str]) -> None:
    with own_worker() as worker:
        worker.call(f"{HERE}:speak", text=b"\xff\xfe native \xc3\n")
        tail = worker.output_tail()
    assert set(tail.splitlines()) == {"Python out", "Python err", "�� native �", "native err"}
    assert capfd.readouterr() == ("", "")
    assert worker.output_tail() == tail


def test_ten_megabytes_of_output_leave_the_end(worker: Worker) -> None:
    worker.call(f"{HERE}:speak", text=b"0123456789abcde\n" * 2**16, times=10)
    tail = worker.output_tail()
    assert tail.endswith("0123456789abcde\nnative err")
    assert len(tail) <= 4096


def test_output_does_not_fill_the_disk() -> None:
    with own_worker() as worker:
        assert worker.call(f"{HERE}:flood", seconds=SOON) < 80 * 2**20


def test_control_characters_of_the_output_stay_out_of_messages() -> None:
    words = "one\ntwo\n \x1b[31mred\x1b[0m ☃\r\n\n\x07three\n"
    with own_worker() as worker, pytest.raises(CheckFailed) as caught:
        worker.call(f"{HERE}:die", how="exit", words=words)
    assert caught.value.message.endswith("Its last output: two | [31mred[0m ☃ | three")


# Memory


@linux
def test_a_memory_cap_is_named_when_it_is_reached() -> None:
    with own_worker(512) as worker:
        assert worker.call(f"{HERE}:allocate", mib=100) == 100 * 2**20
        with pytest.raises(CheckFailed) as caught:
            worker.call(f"{HERE}:allocate", mib=600, what="The converter for k = 3")
        said = "The converter for k = 3 needs more than its limit of 512 MiB of memory: "
        assert caught.value.message.startswith(said)
        assert caught.value.remedy == "Allow more, or do less at once."
        with pytest.raises(CheckFailed) as died:
            worker.call(f"{HERE}:allocate", mib=600, then="abort", what="The converter for k = 3")
        said = "The converter for k = 3 crashed with SIGABRT; its memory limit is 512 MiB"
        assert died.value.message.startswith(said)
        assert died.value.remedy == "Allow more, or do less at once."


@linux
def test_without_a_cap_there_is_none() -> None:
    with own_worker() as worker:
        assert worker.call(f"{HERE}:allocate", mib=600) == 600 * 2**20
        with pytest.raises(CheckFailed, match=r"failed in .*: MemoryError\."):
            worker.call(f"{HERE}:fail", how="bare", what="The converter")


def test_the_parent_keeps_its_own_limits() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with own_worker(512) as worker:
        worker.call(f"{HERE}:echo", value=1)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


MIB = 2**20


def system(root: Path, files: dict[str, str]) -> Path:
    """A file system with a proc of 1000 MiB available, and *files*."""
    for path, text in {"proc/meminfo": f"MemTotal: 9 kB\nMemAvailable:   {1000 * 1024} kB\n", **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def cgroup(version: int, path: str, limit: int | str, used: int, idle: int) -> dict[str, str]:
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }
    mount = {1: "sys/fs/cgroup/memory", 2: "sys/fs/cgroup"}[version]
    at_most, in_use, cache = names[version]
    return {
        f"{mount}/{path}/{at_most}": f"{limit}\n",
        f"{mount}/{path}/{in_use}": f"{used}\n",
        f"{mount}/{path}/memory.stat": f"anon 1\nfile 2\n{cache} {idle}\nactive_file 3\n",
    }


@pytest.mark.parametrize(
    ("files", "available"),
    [
        ({}, 1000),
        ({"proc/self/cgroup": "0::/\n"}, 1000),
        ({"proc/self/cgroup": "0::/a/b\n", **cgroup(2, "a/b", 500 * MIB, 300 * MIB, 50 * MIB)}, 250),
        ({"proc/self/cgroup": "0::/a/b\n", **cgroup(2, "a/b", "max", 300 * MIB, 0)}, 1000),
        ({"proc/self/cgroup": "0::/a/b\n", **cgroup(2, "a/b", "max", 0, 0), **cgroup(2, "a", 400 * MIB, MIB, 0)}, 399),
        ({"proc/self/cgroup": "0::/a/b\n", **cgroup(2, "a/b", MIB, 2 * MIB, 0)}, 0),
        ({"proc/self/cgroup": "5:cpu:/\n4:memory:/c\n0::/\n", **cgroup(1, "c", 70 * MIB, 30 * MIB, 10 * MIB)}, 50),
        ({"proc/self/cgroup": "4:hugetlb,memory:/seen/outside\n", **cgroup(1, ".", 80 * MIB, 30 * MIB, 0)}, 50),
        ({"proc/self/cgroup": "4:memory:/\n", **cgroup(1, ".", 2**63 - 4096, 30 * MIB, 0)}, 1000),
    ],
    ids=[
        "no cgroups",
        "the top",
        "v2",
        "v2 unlimited",
        "v2 above",
        "v2 exceeded",
        "v1",
        "v1 in a container",
        "v1 unlimited",
    ],
)
def test_available_memory_is_what_machine_and_cgroups_leave(
    tmp_path: Path, files: dict[str, str], available: int
) -> None:
    assert available_memory_mib(system(tmp_path, files)) == available


def test_available_memory_is_unknown_where_there_is_no_proc(tmp_path: Path) -> None:
    assert available_memory_mib(tmp_path) is None


@linux
def test_available_memory_here_is_less_than_there_is() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB
    available = available_memory_mib()
    assert available is not None
    assert 0 < available <= total


# Side by side
