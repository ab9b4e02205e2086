"""``hydra-export serve BUNDLE``: a page on which a bundle runs, on this machine's browser or on a phone's."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from hydra_export.commands import Flag, Result, candidates, say, size, talk, titled
from hydra_export.commands.candidates import one_of
from hydra_export.text import counted

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from hydra_export.commands.console import Console
    from hydra_export.serving import Access, Listing, Server

_ADB = "adb reverse tcp:{port} tcp:{port}"


def serve(
    bundle: Path,
    *,
    port: int = 8000,
    lan: Flag = False,
    host: str | None = None,
    https: Flag = False,
    certificate: Path | None = None,
    key: Path | None = None,
    static: Path | None = None,
    install: Flag = False,
    packages: Path | None = None,
    device: Annotated[str | None, one_of(candidates.devices)] = None,
    profiles: Path | None = None,
    no_open: Flag = False,
) -> Result:
    """Serve a page on which a bundle runs and is timed, in this machine's browser or a phone's.

    Args:
        bundle: Its folder, or its archive.
        port: Port of the address; 0 for any free one. A phone on a cable uses the same address, after adb reverse
            tcp:8000 tcp:8000.
        lan: Serve devices on the local network that open the printed address; each address works once. Without --https,
            browsers disable the camera, WebGPU and threads there.
        host: Comma-separated further host names for this server, such as the certificate's.
        https: Serve over HTTPS, with --certificate and --key.
        certificate: The certificate, a PEM file.
        key: The certificate's key, a PEM file without a password.
        static: Do not serve: write everything into this folder, for static hosting.
        install: First install the browser runtimes into the cache with npm; needs the network.
        packages: The folder where npm installed the browser runtimes, instead of the cache.
        device: The device for times from browsers that do not report theirs, as on desktops and iPhones; auto for this
            machine. By default these times get their own profile.
        profiles: The folder of your own profiles, instead of the default one.
        no_open: Do not open a browser.
    """
    from hydra_export import serving

    _check(port, lan, https, certificate, key, static)
    whose = _device(device, profiles)
    tls = serving.certified(certificate, key) if certificate and key else None
    if static is not None:
        serving.check_replaceable(static)
    if install:
        talk().print(f"Installed by npm in {serving.install()}.", soft_wrap=True)
    with ExitStack() as stack:
        listing = stack.enter_context(serving.opened(bundle, packages))
        if static is not None:
            return _written(listing, static)
        console = talk()
        server, access = _server(listing, port, lan, host, tls, _taker(listing, whose, profiles, console), console)
        stack.callback(server.server_close)
        urls = _urls(server, access)
        kept = stack.pop_all()
    document = {"bundle": str(bundle), "url": urls[0], "urls": urls}
    opens = not (no_open or lan) and sys.stdout.isatty()
    return Result(document, "".join(f"{url}\n" for url in urls), lambda: _run(server, kept, urls[0], opens, console))


def _check(port: int, lan: bool, https: bool, certificate: Path | None, key: Path | None, static: Path | None) -> None:
    from hydra_export.errors import BadInput

    if not 0 <= port <= 65535:
        raise BadInput(f"`port` is {port}.", "Use a number from 0 to 65535.")
    if https and (certificate is None or key is None):
        raise BadInput("`https` needs a certificate.", "Pass `certificate=FILE` and `key=FILE`.")
    if not https and (certificate or key):
        raise BadInput("`certificate` and `key` only work with `https`.", "Add `https`, or leave them out.")
    if static is not None and (lan or https):
        raise BadInput("`static` writes files and does not serve.", "Leave out `lan` and `https`.", field="static")


def _device(name: str | None, folder: Path | None) -> str:
    """The id of the device that *name* means."""
    from hydra_export.commands.profile import resolved_device

    return resolved_device(name, folder)[0].profile.id if name else ""


def _server(
    listing: Listing,
    port: int,
    lan: bool,
    host: str | None,
    tls: ssl.SSLContext | None,
    take: Callable[[bytes], dict[str, Any]],
    console: Console,
) -> tuple[Server, Access | None]:
    from hydra_export import serving

    def announce(_token: str) -> None:
        console.print(f"Connected. For another browser: {_urls(server, access)[0]}", soft_wrap=True)

    access = serving.Access(announce, is_https=tls is not None) if lan else None
    names = (*(serving.names() if lan else ()), *(name.strip().lower() for name in (host or "").split(",") if name))
    server = serving.Server(
        ("0.0.0.0" if lan else "127.0.0.1", port),
        listing.with_session(is_static=False, is_secure=tls is not None or not lan),
        inline_scripts=listing.inline_scripts(),
        take=take,
        say=lambda line: say(console, line),
        names=names,
        access=access,
        tls=tls,
    )
    return server, access


def _urls(server: Server, access: Access | None) -> list[str]:
    from hydra_export import serving

    if access is None:
        return [f"{server.scheme}://localhost:{server.server_port}/"]
    found = serving.addresses() or ["127.0.0.1"]
    return [f"{server.scheme}://{address}:{server.server_port}/?token={access.token}" for address in found]


def _taker(listing: Listing, device: str, folder: Path | None, console: Console) -> Callable[[bytes], dict[str, Any]]:
    """What becomes of a record: checked, then added to the profiles."""
    from hydra_export.errors import OutputRefused
    from hydra_export.serving.taking import take

    def taken(content: bytes) -> dict[str, Any]:
        try:
            answer = take(content, listing.manifest, device, folder)
        except OutputRefused as error:
            say(console, f"warning: {error.message} {error.__cause__}")
            raise
        saved = f"Saved {counted(answer['records'], 'time')} of {answer['name']}"
        then = f"hydra-export profile --device {answer['device']} --runtime {answer['runtime']}"
        console.print(f"{saved}: {then}", soft_wrap=True)
        return answer

    return taken


def _run(server: Server, kept: ExitStack, url: str, opens: bool, console: Console) -> None:
    """Serves until the process is asked to end."""
    port = server.server_port
    with kept:
        if server.access is None:
            console.print(f"A phone on a cable: {_ADB.format(port=port)}, then {url} there.", soft_wrap=True)
        elif server.scheme == "http":
            say(
                console,
                "note: over HTTP, browsers disable camera and WebGPU and use one thread; HTTPS needs a certificate.",
            )
        console.print("Press Ctrl-C to stop.")
        if opens:
            _open(url)
        try:
            server.serve_forever()
        except KeyboardInterrupt as error:
            error.add_note("The server has stopped.")
            raise


def _open(url: str) -> None:
    """Opens a browser that has a window; one in the terminal would be in the way."""
    import contextlib
    import webbrowser

    with contextlib.suppress(webbrowser.Error):
        if type(browser := webbrowser.get()) is not webbrowser.GenericBrowser:
            browser.open(url)


def _written(listing: Listing, out: Path) -> Result:
    from hydra_export import serving

    resources = listing.with_session(is_static=True, is_secure=True)
    total = serving.write(resources, out)
    note = "The camera and threads need HTTPS and the headers listed in docs/playground.md."
    shown = titled(f"{out}: {len(resources)} files, {size(total)}", "", note)
    return Result({"static": str(out), "files": len(resources), "bytes": total}, shown)
