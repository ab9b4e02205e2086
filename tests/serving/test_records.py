"""Records that pages send: what is taken, what is refused, and that nothing else is ever written."""

from __future__ import annotations

import copy
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hydra_export import device, profiles, serving
from hydra_export.serving import handler
from hydra_export.serving.limits import Rate
from tests.conftest import snapshot
from tests.serving.conftest import Site, answered, error_of, served

Record = dict[str, Any]
Change = Callable[[Record], object]


def changed(record: Record, change: Change) -> Record:
    other = copy.deepcopy(record)
    change(other)
    return other


def kept(site: Site) -> dict[str, tuple[int, str]]:
    return snapshot(site.profiles)


def test_a_record_becomes_times_of_the_device_that_the_browser_names(site: Site, record: Record) -> None:
    status, _, body = site.post(record)
    assert status == 201, body
    told = {
        "device": "pixel7",
        "name": "Google Pixel 7",
        "runtime": "onnxruntime-web",
        "records": 1,
        "file": "pixel7.toml",
    }
    assert json.loads(body) == told
    (written,) = (path for path in site.profiles.rglob("*") if path.is_file())
    assert written == site.profiles / "measured" / "pixel7.toml"
    (time,) = device.read(written).latency
    assert (time.k, time.ms, time.runtime, time.unit, time.threads) == (4, 2.03, "onnxruntime-web", "cpu", 4)
    assert (time.statistic, time.date, time.provenance) == ("median", "2025-02-03", "measured")
    assert time.low is not None
    assert time.high is not None
    assert time.low < time.ms < time.high
    assert time.note == "Chrome/140"


def test_the_answer_says_nothing_of_this_machines_folders(site: Site, record: Record) -> None:
    assert str(site.profiles).encode() not in site.post(record)[2]
    (site.profiles / "bad.toml").write_text("no profile")
    answer = site.post(record)
    assert answer[0] == 500
    assert str(site.profiles) not in error_of(answer)


NESTED = b'{"kind":' + b"[" * 200_000
REFUSED: dict[str, tuple[Change | bytes, str]] = {
    "no JSON": (b"hello", "is not a record"),
    "no UTF-8": (b'{"kind": "\xff"}', "is not a record"),
    "another kind": (lambda r: r.update(kind="hydra-export bench"), "kind"),
    "nested": (NESTED, "is not a record"),
    "nested and closed": (b"[" * 100_000 + b"]" * 100_000, "is not a record"),
    "a key twice": (b'{"kind": "hydra-export browser times", "kind": "hydra-export browser times"}', "is not a record"),
    "another version": (lambda r: r.update(schema_version=2), "schema_version"),
    "an unknown field": (lambda r: r.update(more=1), "more"),
    "an unknown field within": (lambda r: r["browser"].update(path="/etc/passwd"), "browser"),
    "a missing field": (lambda r: r.pop("conditions"), "conditions"),
    "another model": (lambda r: r["model"].update(name="other"), "model.name"),
    "another checkpoint": (lambda r: r["model"].update(checkpoint_sha256="0" * 64), "model.checkpoint_sha256"),
    "another file": (lambda r: r["artifact"].update(path="../../etc/passwd"), "artifact"),
    "another hash": (lambda r: r["artifact"].update(sha256="0" * 64), "artifact"),
    "another precision": (lambda r: r["artifact"].update(precision="int8"), "artifact.precision"),
    "a native runtime": (lambda r: r.update(backend="onnxruntime"), "backend"),
    "another target's runtime": (lambda r: r.update(backend="litert-web"), "backend"),
    "an unknown provider": (lambda r: r.update(provider="npu"), "provider"),
    "a head count of another file": (
        lambda r: (r["checks"].update({"2": r["checks"]["4"]}), r["samples_ms"].update({"2": [1]})),
        "k = 2",
    ),
    "an unknown head count": (
        lambda r: (r["checks"].update({"3": r["checks"]["4"]}), r["samples_ms"].update({"3": [1]})),
        "k = 3",
    ),
    "a head count that is none": (lambda r: r["samples_ms"].update({"-4": [1.0]}), "samples_ms"),
    "not checked": (lambda r: r["checks"].clear(), "checks.4"),
    "a check that failed": (lambda r: r["checks"]["4"].update(passed=False), "checks.4"),
    "a check that cannot have passed": (lambda r: r["checks"]["4"].update(error=1.0), "checks.4"),
    "no samples": (lambda r: r["samples_ms"].clear(), "samples_ms"),
    "none of a head count": (lambda r: r["samples_ms"].update({"4": []}), "samples_ms"),
    "a time of 0": (lambda r: r["samples_ms"]["4"].append(0.0), "samples_ms"),
    "a time before now": (lambda r: r["samples_ms"]["4"].append(-1.0), "samples_ms"),
    "a time that is a text": (lambda r: r["samples_ms"]["4"].append("1"), "samples_ms"),
    "NaN": (lambda r: r["samples_ms"]["4"].append(float("nan")), "is not a record"),
    "infinity": (lambda r: r["samples_ms"]["4"].append(float("inf")), "is not a record"),
    "more than a float holds": (b'{"samples_ms": {"4": [1e999]}}', "is not a record"),
    "too many samples": (lambda r: r["samples_ms"].update({"4": [1.5] * 100_001}), "100,001"),
    "a long text": (lambda r: r["browser"].update(user_agent="a" * 501), "browser.user_agent"),
    "no date": (lambda r: r.update(date="yesterday"), "date"),
    "a date to come": (lambda r: r.update(date="9999-12-31"), "date"),
    "no cores": (lambda r: r["browser"].update(cores=0), "browser.cores"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_record_of_this_model_is_refused_by_field_and_nothing_written(
    site: Site, record: Record, name: str
) -> None:
    change, field = REFUSED[name]
    answer = site.post(change if isinstance(change, bytes) else changed(record, change))
    assert (answer[0], field in error_of(answer)) == (400, True), answer
    assert kept(site) == {}
    assert site.said == []


def test_what_is_too_large_is_refused_before_it_is_read(site: Site, record: Record) -> None:
    large = {**record, "date": "2025-02-03" + " " * handler.MOST_BYTES}
    answer = site.post(large)
    assert (answer[0], "2 MiB" in error_of(answer)) == (413, True)
    assert site.post(b"{}", Content_Length="99999999999999999999")[0] == 413
    assert site.post(b"{}", Content_Length=str(2**31))[0] == 413
    assert site.post(b"{}", Content_Length="-1")[0] == 413
    assert kept(site) == {}


def test_who_is_still_sending_what_was_refused_gets_the_answer(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.server.server_port), timeout=60) as connection:
        head = f"POST /measurements HTTP/1.1\r\nHost: {site.host}\r\nContent-Length: 9000000\r\n\r\n"
        connection.sendall(head.encode() + b" " * 2**16)
        assert answered(connection)[0] == 413
        for _ in range(8):  # a connection that was closed meanwhile would be reset
            connection.sendall(b" " * 2**16)


@pytest.mark.parametrize(
    "headers",
    [
        {"Transfer_Encoding": "chunked", "Content_Length": None},
        {"Transfer_Encoding": "chunked"},
        {"Content_Length": "\xb2"},
        {"Transfer_Encoding": "gzip, chunked", "Content_Length": "5"},
    ],
)
def test_a_body_whose_size_is_not_said_is_refused(site: Site, headers: dict[str, str | None]) -> None:
    chunks = b"2\r\n{}\r\n0\r\n\r\n"
    assert site.post(chunks, **headers)[0] == 411
    assert site.raw(f"POST /measurements HTTP/1.1\r\nHost: {site.host}\r\n\r\n".encode())[0] == 411
    twice = "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"
    assert site.raw(f"POST /measurements HTTP/1.1\r\nHost: {site.host}\r\n{twice}".encode())[0] == 411


def test_a_body_that_ends_early_is_refused(site: Site, record: Record) -> None:
    content = json.dumps(record).encode()
    with socket.create_connection(("127.0.0.1", site.server.server_port), timeout=60) as connection:
        head = f"POST /measurements HTTP/1.1\r\nHost: {site.host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(content) + 9}\r\n\r\n".encode() + content)
        connection.shutdown(socket.SHUT_WR)
        assert answered(connection)[0] == 400
    assert kept(site) == {}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Origin": "https://{host}"},
        {"Origin": "http://{host}.evil.example"},
        {"Origin": None, "Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
    ],
)
def test_a_record_of_another_page_is_refused(site: Site, record: Record, headers: dict[str, str | None]) -> None:
    given = {name: value and value.replace("{host}", site.host) for name, value in headers.items()}
    assert site.post(record, **given)[0] == 403
    assert kept(site) == {}


def test_what_forms_can_send_is_refused(site: Site, record: Record) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None):
        assert site.post(record, Content_Type=kind)[0] == 415
    assert site.post(record, Content_Type="application/json; charset=utf-8")[0] == 201


def test_a_program_that_is_no_browser_may_send_a_record(site: Site, record: Record) -> None:
    assert site.post(record, Origin=None, Sec_Fetch_Site=None)[0] == 201


def test_records_that_come_too_often_wait(site: Site, record: Record) -> None:
    site.server.rate = Rate(3, site.server.rate.seconds)
    assert [site.post(record)[0] for _ in range(4)] == [201, 201, 201, 429]
    answer = site.post(record)
    assert (answer[0], int(answer[1]["retry-after"]) > 0) == (429, True)


def test_records_that_come_at_once_are_all_kept(listing: serving.Listing, tmp_path: Path, record: Record) -> None:
    with served(listing, tmp_path) as site:
        answers: list[int] = []

        def send(threads: int) -> None:
            answers.append(site.post({**record, "threads": threads})[0])

        senders = [threading.Thread(target=send, args=[count]) for count in range(1, 9)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        assert answers == [201] * 8
        assert len(device.read(tmp_path / "measured" / "pixel7.toml").latency) == 8


def test_records_are_read_one_at_a_time(listing: serving.Listing, tmp_path: Path, record: Record) -> None:
    inside, most, pause = 0, 0, threading.Event()

    def take(_content: bytes) -> Record:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        pause.wait(0.02)
        inside -= 1
        return {}

    with served(listing, tmp_path, take=take) as site:
        senders = [threading.Thread(target=site.post, args=[record]) for _ in range(6)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
    assert most == 1


# Names of devices, which become names of files


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("../../../../tmp/evil", "tmp-evil"),
        ("/etc/passwd", "etc-passwd"),
        ("..\\..\\evil", "evil"),
        ("a\x00b\n[evil]", "ab-evil"),
        ("Téléphone_1", "t-l-phone-1"),
        ("電話", "device"),
        ("x" * 500, "x" * 50),
        ('quo"te', "quo-te"),
    ],
)
def test_whatever_a_browser_calls_its_device_names_a_file_among_the_profiles(
    site: Site, record: Record, model: str, name: str
) -> None:
    before = snapshot(site.profiles.parent)
    for _ in range(2):  # the second time it is known
        status, _, body = site.post(changed(record, lambda r: r["browser"].update(model=model)))
        assert (status, json.loads(body).get("device")) == (201, name), body
    new = snapshot(site.profiles.parent).keys() - before.keys()
    assert new == {"profiles/measured", f"profiles/measured/{name}.toml"}
    assert profiles.get(name, site.profiles).profile.id == name


def test_a_device_that_calls_itself_by_a_pattern_stands_for_no_other(site: Site, record: Record) -> None:
    """At the end of what a profile is matched by, an asterisk is any continuation."""
    assert site.post(changed(record, lambda r: r["browser"].update(model="SM-S*")))[0] == 201
    found = profiles.match(device.Match(android_model=("SM-S999X",)), site.profiles)
    assert found is None or found[0].profile.id != "sm-s"
    assert site.post(changed(record, lambda r: r["browser"].update(model="*")))[0] == 201
    assert profiles.match(device.Match(android_model=("no such phone",)), site.profiles) is None


def test_a_browser_that_does_not_name_its_device_gets_one_profile_of_its_own(site: Site, record: Record) -> None:
    desktop = changed(
        record, lambda r: r["browser"].update(model="", mobile=False, platform="Linux", architecture="x86")
    )
    told = [json.loads(site.post(desktop)[2]) for _ in range(2)]
    assert told[0] == told[1]
    assert told[0]["name"] == "Linux x86, 8 cores, known by its browser"
    assert profiles.get(told[0]["device"], site.profiles).profile.device_class == "desktop"


def test_hidden_pages_heat_and_few_calls_are_noted(site: Site, record: Record) -> None:
    def noisy(r: Record) -> None:
        r["conditions"].update(hidden=True, drift=1.4)
        r["samples_ms"].update({"4": [2.0, 2.0, 2.0]})

    assert site.post(changed(record, noisy))[0] == 201
    (time,) = device.read(site.profiles / "measured" / "pixel7.toml").latency
    assert time.note == "Chrome/140, noisy: hidden, few calls, drifted"


def test_the_times_of_a_gpu_are_a_gpus(site: Site, record: Record) -> None:
    assert site.post({**record, "provider": "webgpu"})[0] == 201
    (time,) = device.read(site.profiles / "measured" / "pixel7.toml").latency
    assert (time.unit, time.threads) == ("gpu", None)
