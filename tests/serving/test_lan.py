"""Other devices: an address works once, and its cookie is asked for from then on; https."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hydra_export import serving
from hydra_export.errors import BadInput
from tests.serving.conftest import Site, answered, error_of, served


@pytest.fixture
def next_tokens() -> list[str]:
    return []


@pytest.fixture
def lan(listing: serving.Listing, tmp_path: Path, next_tokens: list[str]) -> Iterator[Site]:
    access = serving.Access(next_tokens.append)
    with served(listing, tmp_path, access=access, names=("box.local",)) as running:
        yield running


def token_of(site: Site) -> str:
    assert site.server.access is not None
    return site.server.access.token


def let_in(site: Site) -> str:
    """The cookie of a browser that opened the address."""
    status, headers, body = site.ask(f"/?token={token_of(site)}")
    assert (status, b"<html" in body) == (200, True)
    return headers["set-cookie"].partition(";")[0]


def test_without_a_cookie_nothing_is_given_and_nothing_is_said_of_what_there_is(
    lan: Site, record: dict[str, Any]
) -> None:
    answers = {lan.ask(path)[0::2] for path in ("/", "/bundle/manifest.json", "/nothing", "/session.json", "/?token=")}
    answers.add(lan.post(record)[0::2])
    assert len(answers) == 1
    assert next(iter(answers))[0] == 401


def test_the_first_browser_with_the_token_gets_a_cookie_that_scripts_and_other_sites_do_not_see(lan: Site) -> None:
    headers = lan.ask(f"/?token={token_of(lan)}")[1]
    cookie, *attributes = headers["set-cookie"].split("; ")
    assert cookie.startswith("hydra_export=")
    assert sorted(attributes) == ["HttpOnly", "Path=/", "SameSite=Strict"]


def test_with_the_cookie_everything_is_there(lan: Site, record: dict[str, Any]) -> None:
    cookie = let_in(lan)
    assert lan.ask("/bundle/manifest.json", Cookie=cookie)[0] == 200
    assert lan.ask("/", Cookie=f"other=1; {cookie}")[0] == 200
    assert lan.post(record, Cookie=cookie)[0] == 201
    assert "set-cookie" not in lan.ask("/", Cookie=cookie)[1]


def test_a_token_is_spent_once_and_the_next_is_announced(lan: Site, next_tokens: list[str]) -> None:
    first = token_of(lan)
    let_in(lan)
    answer = lan.ask(f"/?token={first}")
    assert (answer[0], "each works once" in error_of(answer)) == (401, True)
    assert next_tokens == [token_of(lan)]
    assert next_tokens != [first]
    assert let_in(lan)


@pytest.mark.parametrize("path", ["/?token={}&token={}", "/bundle/manifest.json?token={}", "/?token={}x", "/?Token={}"])
def test_a_token_counts_only_as_it_was_printed(lan: Site, path: str) -> None:
    token = token_of(lan)
    assert lan.ask(path.replace("{}", token))[0] == 401
    assert lan.ask(f"/?token={token}", "HEAD")[0] == 401
    assert lan.ask(f"/?token={token}", "POST")[0] == 401
    assert token_of(lan) == token


@pytest.mark.parametrize("cookie", ["hydra_export=", "hydra_export=x", "hydra_export=\xff", "=;;=", "a" * 9000, '"'])
def test_another_cookie_lets_nobody_in(lan: Site, cookie: str) -> None:
    let_in(lan)
    assert lan.ask("/", Cookie=cookie)[0] == 401


def test_another_name_spends_no_token(lan: Site) -> None:
    token = token_of(lan)
    assert lan.ask(f"/?token={token}", Host="evil.example")[0] == 421
    assert token_of(lan) == token


def test_names_of_this_host_are_known(lan: Site) -> None:
    assert lan.ask(f"/?token={token_of(lan)}", Host="box.local:8000")[0] == 200


def test_the_address_that_a_request_reached_is_a_name_and_no_other_address_is(
    listing: serving.Listing, tmp_path: Path
) -> None:
    if sys.platform != "linux":
        pytest.skip("127.0.0.2 is this machine on Linux alone")
    with served(listing, tmp_path, address="127.0.0.2") as site:
        assert site.ask("/", Host="127.0.0.2")[0] == 200
        assert site.ask("/", Host="127.0.0.3")[0] == 421


# https


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl, which makes a certificate")
    place = tmp_path_factory.mktemp("tls")
    files = place / "certificate.pem", place / "key.pem"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(files[1])]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        ["openssl", "req", "-x509", *key, *name, "-days", "2", "-out", files[0]], check=True, capture_output=True
    )
    return files


def test_https_serves_with_the_certificate_and_keeps_its_cookie_off_http(
    listing: serving.Listing, tmp_path: Path, certificate: tuple[Path, Path], record: dict[str, Any]
) -> None:
    access = serving.Access(lambda _token: None, is_https=True)
    with served(listing, tmp_path, access=access, tls=serving.certified(*certificate)) as site:
        context = ssl.create_default_context(cafile=str(certificate[0]))
        where = ("127.0.0.1", site.server.server_port)
        with (
            socket.create_connection(where, timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(f"GET /?token={access.token} HTTP/1.1\r\nHost: {site.host}\r\n\r\n".encode())
            status, headers, _ = answered(connection)
        assert (status, headers["set-cookie"].endswith("; Secure")) == (200, True)
        with socket.create_connection(where, timeout=60) as plain:  # http where https is spoken
            plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200 OK" not in plain.recv(2**16)
        assert site.said == []


def test_a_certificate_that_is_none_is_refused(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    with pytest.raises(BadInput, match=r"missing\.pem and `key` .* cannot be used: No such file"):
        serving.certified(tmp_path / "missing.pem", certificate[1])
    with pytest.raises(BadInput, match="cannot be used"):
        serving.certified(certificate[1], certificate[1])


def test_the_addresses_of_this_machine_are_addresses_of_others() -> None:
    for address in serving.addresses():
        assert socket.inet_aton(address)
        assert not address.startswith("127.")
