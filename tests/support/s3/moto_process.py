"""Runs moto with one PUT at a time: it looks for the object and writes it in two steps, and S3 does not.

python -m support.s3.moto_process PORT [--every-service]
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple


class OnePutAtATime:
    """A WSGI application around another one.

    Args:
        application: the other one.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "PUT":
            with self._lock:
                return list(self._application(environ, start_response))
        return self._application(environ, start_response)


if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    port, *options = sys.argv[1:]
    # To find the service that a request is for, moto reads the folder of all services each time, a third of its time.
    every_service = options == ["--every-service"]
    application = DomainDispatcherApplication(create_backend_app) if every_service else create_backend_app("s3")
    run_simple("127.0.0.1", int(port), OnePutAtATime(application), threaded=True)
