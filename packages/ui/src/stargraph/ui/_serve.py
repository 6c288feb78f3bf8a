"""`stargraph ui`: the pages on the loopback, for the person at this machine."""

from __future__ import annotations

import logging
import socket
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import suppress

import uvicorn

from stargraph.errors import StargraphError
from stargraph.ui._app import create_app
from stargraph.ui._security import LOOPBACK

_EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104  # what a person may ask for; the default is the loopback
_GRACE: int = 2
"""How long streams of events may keep the process from ending, in seconds."""


def serve(
    store: str,
    *,
    graphs: Sequence[str] = (),
    write: bool = False,
    host: str = "127.0.0.1",
    port: int = 0,
    open_browser: bool = False,
    say: Callable[[str], object] = print,
) -> None:
    """Serve the pages until Ctrl-C.

    Args:
        store: a path or URL.
        graphs: the graphs that may be executed here.
        write: whether the pages offer what changes runs.
        host: the address to listen on; pages answer under this name and those of the loopback, and under that of the
            machine if it stands for all addresses.
        port: the port; 0 for any free one.
        open_browser: open the link in a browser.
        say: prints a line.

    Raises:
        StargraphError: the port is taken (`reason="port-taken"`), or a graph cannot be loaded.
    """
    name = socket.gethostname() if host in _EVERY_ADDRESS else host
    app = create_app(store, write=write, graphs=graphs, hosts=(*LOOPBACK, name))
    listener = _listener(host, port)
    shown = "localhost" if host == "127.0.0.1" else f"[{name}]" if ":" in name else name
    address = f"http://{shown}:{listener.getsockname()[1]}"
    access = app.state.access
    access.on_sign_in = lambda: say(f"a browser signed in; the link for another one: {address}{app.state.link()}")
    link = f"{address}{app.state.link()}"
    say(f"{app.state.console.store.name}, {'writing is possible' if write else 'read-only'}; Ctrl-C ends this")
    say(f"open {link}")
    if host not in LOOPBACK:
        say(
            f"warning: listening on {host} without encryption: whoever can read the network between sees the link and"
            " the cookie; an SSH tunnel to the loopback, or a proxy that speaks HTTPS, does not show them"
        )
    if open_browser:
        webbrowser.open(link)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # it would hold the tokens of links
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
        ws="none",
    )
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)  # from here on, whoever opens the link waits instead of being refused
    except OSError as error:
        listener.close()
        raise StargraphError(
            f"cannot listen on {host}, port {port}: {error.strerror}",
            reason="port-taken",
            hint="Give another --port, or none for a free one.",
        ) from error
    return listener
