"""The endpoint of a worker: whether it lives and takes runs, and its numbers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from stargraph.errors import StargraphError
from stargraph.worker._metrics import WorkerMetrics, prometheus_text

_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


def check_listen(listen: object) -> None:
    """Refuse what is no host with a port.

    Raises:
        ValueError: it is not a tuple of a text and a number from 0 to 65535.
    """
    match listen:
        case (str(), int(port)) if not isinstance(port, bool) and 0 <= port <= 65535:
            return
    raise ValueError(f"listen is {listen!r:.80}: give a tuple of host and port, as in ('127.0.0.1', 9464)")


class Endpoint:
    """Answers `/health`, `/ready` and `/metrics` by HTTP, from threads: nodes that block the loop do not silence it.

    `/health` is 200 while the worker can say in the store that it lives, and 503 once other workers take its runs.
    `/ready` is 503 while it takes no runs: it drains, or the store cannot be reached.

    Args:
        host: the address to listen on.
        port: the port; 0 for any that is free.
        metrics: what to show.
        silent_after: seconds after which other workers take the runs of a silent one.

    Raises:
        StargraphError: the address cannot be used (`reason="address-in-use"`).
    """

    def __init__(self, host: str, port: int, metrics: WorkerMetrics, silent_after: float) -> None:
        try:
            self._server = ThreadingHTTPServer(
                (host, port), _handler(lambda path: _answer(path, metrics, silent_after))
            )
        except OSError as error:
            raise StargraphError(
                f"the worker cannot listen on {host}:{port}: {error.strerror or error}",
                reason="address-in-use",
                hint="Choose another port, or 0 for any that is free.",
            ) from None
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="stargraph-endpoint", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where it listens, as `host:port`."""
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def close(self) -> None:
        """Listen no longer."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _answer(path: str, metrics: WorkerMetrics, silent_after: float) -> tuple[HTTPStatus, str, str] | None:
    if path == "/metrics":
        return HTTPStatus.OK, _TEXT, prometheus_text(metrics)
    is_alive = time.monotonic() - metrics.heartbeat < silent_after
    facts = {
        "alive": is_alive,
        "draining": metrics.is_draining,
        "store": "ok" if is_alive and metrics.outage_since is None else "unavailable",
        "running": metrics.running,
        "concurrency": metrics.concurrency,
        "queue_age_seconds": metrics.queue_ages,
    }
    if path == "/health":
        good = is_alive
    elif path == "/ready":
        good = is_alive and not metrics.is_draining and metrics.outage_since is None
    else:
        return None
    return HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, "application/json", json.dumps(facts) + "\n"


def _handler(answer: Callable[[str], tuple[HTTPStatus, str, str] | None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10.0

        def do_GET(self) -> None:
            found = answer(self.path.partition("?")[0])
            if found is None:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            status, kind, text = found
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name is the library's
            """Log nothing: it is asked every few seconds."""

    return Handler
