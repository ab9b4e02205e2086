"""Ctrl-C, and what else asks to end: at every moment the same status and one line, and nothing is left."""

from __future__ import annotations

import _thread
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from hydra_export import checkpoint
from hydra_export.cli import main
from hydra_export.exporting import export, jobs
from tests.conftest import SOON, available_targets, children

# Each takes the start of a process.
KILLS = int(os.environ.get("HYDRA_EXPORT_INTERRUPTIONS", "8"))
_OF_LIBRARIES = {".ses", "torchinductor_root"}  # which these leave among temporary files after every run

# What the console script does, and a byte when our first line was run: the start of Python is its own. The tests may
# run in the background of a shell, where SIGINT is ignored.
SCRIPT = """
import os, signal, sys
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
from hydra_export.cli import run
os.write(1, b".")
run()
"""


def start(program: str, *arguments: str, place: Path) -> subprocess.Popen[bytes]:
    """A process whose standard output gave its first byte."""
    (place / "tmp").mkdir(exist_ok=True)
    path = os.pathsep.join([str(place), str(Path(__file__).parents[1])])
    running = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=place,
        env={**os.environ, "TMPDIR": str(place / "tmp"), "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    assert running.stdout is not None
    assert running.stdout.read(1) == b"."
    return running


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("interrupted") / "bundle"
    export(checkpoint.load(), out, jobs(graphs=["shared"]), heads=(3,))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("number", range(KILLS))
def test_a_signal_at_any_moment_is_one_line_and_leaves_nothing(number: int, bundled: Path, tmp_path: Path) -> None:
    rng = random.Random(number)
    commands = [
        ["export", "--target", ",".join(available_targets()), "--heads", "3", "--out", "out"],
        ["verify", str(bundled)],
        ["profile", "--device", "pixel7"],
        ["train", "--recipe", "digits", "--steps", "5000", "--threads", "1", "--out", "run"],
    ]
    command = commands[number % len(commands)]
    asked = rng.choice([signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    running = start(SCRIPT, *command, place=tmp_path)
    time.sleep(rng.uniform(0, 0.3) if rng.random() < 0.4 else rng.uniform(0.3, 5))
    running.send_signal(asked)
    out, err = running.communicate(timeout=60)
    left = {path.name for path in tmp_path.glob("*")} | {path.name for path in tmp_path.glob("tmp/*")}
    if running.returncode in (0, -asked):  # it was done before, or was about to end
        assert out
        assert not err
        return
    assert running.returncode == 128 + asked, err
    assert err.decode().splitlines() == [err.decode().strip()], err
    assert err.startswith(b"error: Interrupted. "), err
    assert not out
    assert left - _OF_LIBRARIES <= {"tmp"} | ({"run"} if command[0] == "train" else set())


# Ends of what an export has others do


def test_where_the_process_that_runs_artifacts_dies_the_export_stops_and_leaves_nothing(tmp_path: Path) -> None:
    running = start(SCRIPT, "export", "--target", "onnx", "--json", place=tmp_path)
    deadline = time.monotonic() + SOON
    while not (workers := children(running.pid, "hydra_export.worker")):
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.001)
    os.kill(workers[0], signal.SIGKILL)
    out, _err = running.communicate(timeout=SOON)
    assert running.returncode == 1
    error = json.loads(out)["error"]
    assert error["message"].startswith("Running onnx/hydravit-fashion-mnist-k")
    assert "was killed by SIGKILL" in error["message"]
    left = {path.name for path in tmp_path.glob("*")} | {path.name for path in tmp_path.glob("tmp/*")}
    assert left - _OF_LIBRARIES <= {"tmp"}


# One moment each


@pytest.mark.parametrize(
    "asked",
    [signal.SIGINT, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGTERM, signal.SIGHUP))],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
def test_an_export_that_is_asked_to_end_clears_everything_away(tmp_path: Path, asked: signal.Signals) -> None:
    running = start(SCRIPT, "export", "--target", ",".join(available_targets()), "--json", place=tmp_path)
    deadline = time.monotonic() + SOON
    while not [path for path in tmp_path.rglob("*") if path.suffix in {".onnx", ".tflite", ".mlpackage"}]:
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.001)
    running.send_signal(asked)
    out, _err = running.communicate(timeout=SOON)
    assert running.returncode == 128 + asked
    assert json.loads(out)["error"]["code"] == "interrupted"
    left = {path.name for path in tmp_path.glob("*")} | {path.name for path in tmp_path.glob("tmp/*")}
    assert left - _OF_LIBRARIES <= {"tmp"}


WATCHED = """
import os, sys, time
from hydra_export import interruption
from hydra_export.interruption import Held, Interruption, Watch, uninterrupted

def leave(error):
    print("left", error.number, file=sys.stderr, flush=True)
    return 128 + error.number

watch = Watch(leave)
watch.start()
def ready():
    os.write(1, b".")
try:
{body}
    print("went on", flush=True)
except Interruption as error:
    watch.stop()
    print("raised", error.number, flush=True)
"""


def watched(body: str, place: Path) -> subprocess.Popen[bytes]:
    return start(WATCHED.replace("{body}", textwrap.indent(textwrap.dedent(body), "    ")), place=place)


def slow_module(place: Path, body: str = "") -> None:
    """A library whose import takes long, and where *body* says what becomes of exceptions."""
    code = "import os, time\nos.write(1, b'.')\nend = time.monotonic() + 3\nwhile time.monotonic() < end:\n"
    (place / "slow.py").write_text(code + textwrap.indent(textwrap.dedent(body or "time.sleep(0.01)"), "    "))


SWALLOWING = """
try:
    time.sleep(0.01)
except BaseException:
    pass
"""
TURNING = """
try:
    time.sleep(0.01)
except BaseException:
    raise RecursionError("deep")
"""


@pytest.mark.parametrize("library", ["", SWALLOWING, TURNING], ids=["plain", "swallowing", "turning"])
def test_within_an_import_the_process_ends_at_once(tmp_path: Path, library: str) -> None:
    slow_module(tmp_path, library)
    running = watched("import slow", tmp_path)
    began = time.monotonic()
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out, err) == (130, b"", b"left 2\n")
    assert time.monotonic() - began < 2.5  # the import takes 3 s


@pytest.mark.parametrize("library", ["", SWALLOWING], ids=["plain", "swallowing"])
def test_where_something_is_held_the_end_of_the_import_is_waited_for(tmp_path: Path, library: str) -> None:
    slow_module(tmp_path, library)
    body = """
    with Held():
        import slow
        time.sleep(30)
    """
    running = watched(body, tmp_path)
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out, err) == (0, b"raised 15\n", b"")


def test_what_is_uninterrupted_comes_to_its_end(tmp_path: Path) -> None:
    body = """
    @uninterrupted
    def make():
        ready()
        time.sleep(0.5)
        print("made", flush=True)

    make()
    time.sleep(30)
    """
    running = watched(body, tmp_path)
    running.send_signal(signal.SIGINT)
    assert running.communicate(timeout=30) == (b"made\nraised 2\n", b"")


def test_a_generator_is_uninterrupted_in_its_own_parts_alone(tmp_path: Path) -> None:
    body = """
    import contextlib

    @contextlib.contextmanager
    @uninterrupted
    def made():
        try:
            yield
        finally:
            time.sleep(0.3)
            print("cleared", flush=True)

    with made():
        ready()
        time.sleep(30)
    """
    running = watched(body, tmp_path)
    running.send_signal(signal.SIGINT)
    assert running.communicate(timeout=30) == (b"cleared\nraised 2\n", b"")


@pytest.mark.parametrize(
    "swallowing",
    ["except BaseException: pass", "except BaseException as error: print(type(error).__name__, flush=True)"],
)
def test_an_interruption_that_was_swallowed_comes_again(tmp_path: Path, swallowing: str) -> None:
    body = f"""
    try:
        ready()
        time.sleep(30)
    {swallowing}
    time.sleep(30)
    """
    running = watched(body, tmp_path)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert out.splitlines()[-1] == b"raised 2"
    assert not err


def test_a_finaliser_swallows_none(tmp_path: Path) -> None:
    body = """
    class Dying:
        def __del__(self):
            ready()
            time.sleep(0.5)
            print("died", flush=True)

    Dying()
    time.sleep(30)
    """
    running = watched(body, tmp_path)
    running.send_signal(signal.SIGINT)
    assert running.communicate(timeout=30) == (b"died\nraised 2\n", b"")


def test_a_second_ctrl_c_ends_at_once_and_a_twin_does_not(tmp_path: Path) -> None:
    body = """
    @uninterrupted
    def clear():
        ready()
        for _ in range(300):
            time.sleep(0.1)

    clear()
    """
    running = watched(body, tmp_path)
    running.send_signal(signal.SIGINT)
    running.send_signal(signal.SIGINT)
    running.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert running.poll() is None
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=30)
    assert running.returncode == -signal.SIGINT


def test_a_fork_ends_as_its_parent_tells_it(tmp_path: Path) -> None:
    body = """
    import signal
    child = os.fork()
    if not child:
        ready()
        time.sleep(30)
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    """
    assert watched(body.replace("os.kill", "time.sleep(0.2); os.kill"), tmp_path).communicate(timeout=30) == (
        b"-15\nwent on\n",
        b"",
    )


@pytest.mark.parametrize(
    ("save_every", "awaited", "promised"),
    [
        (100_000, "metrics.jsonl", "No state was saved yet: the same command with --resume begins again."),
        (1, "state.pt", "The same command with --resume continues from the last saved state."),
    ],
)
def test_a_training_run_promises_to_continue_only_from_a_saved_state(
    save_every: int, awaited: str, promised: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    out, ended = tmp_path / "run", threading.Event()

    def interrupt() -> None:
        while not (out / awaited).exists() and not ended.wait(0.01):
            pass
        if not ended.is_set():
            _thread.interrupt_main()

    waiting = threading.Thread(target=interrupt)
    waiting.start()
    try:
        sizes = ["--override", "model.depth=1", "--steps", "100000", "--override", f"save_every={save_every}"]
        assert main(["train", "--recipe", "digits", "--out", str(out), *sizes]) == 130
    finally:
        ended.set()
        waiting.join()
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.splitlines()[-1] == f"error: Interrupted. {promised}"
