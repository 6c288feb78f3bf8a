"""The ports of the servers that tests start belong to one process of the tests at a time."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from support import ports
from support.workspace import ROOT

OF_ANOTHER_PROCESS = """
from support import ports

ports._PORTS = range({port}, {port} + 1)
print(ports.free_port())
"""


def test_a_port_is_given_out_once() -> None:
    port = ports.free_port()
    assert port in ports._PORTS
    code = OF_ANOTHER_PROCESS.format(port=port)
    other = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "tests", capture_output=True, text=True, check=False
    )
    assert "no port of" in other.stderr
    with socket.create_server(("127.0.0.1", port)):  # a server may listen on it
        pass


def test_a_port_that_somebody_listens_on_is_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, free = ports.free_port(), ports.free_port()
    monkeypatch.setattr(ports, "_PORTS", (taken,))
    with pytest.raises(RuntimeError, match="no port of"):
        ports.free_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setattr(ports, "_PORTS", (listener.getsockname()[1],))
        with pytest.raises(RuntimeError, match="no port of"):
            ports.free_port()
    assert taken != free
