"""Ports for servers that tests start, and for addresses at which nobody listens."""

from __future__ import annotations

import random
import socket
from typing import Final

_PORTS: Final = range(20_000, 30_000)
"""Below those that systems hand out by themselves: no client's own end of a connection is ever among them."""


def free_port() -> int:
    """Return a TCP port that nobody listens on, and that no other process of the tests gets while this one lives.

    A server that is to listen on it may so be started late, or be killed and started again.
    """
    for port in random.SystemRandom().sample(_PORTS, min(len(_PORTS), 1000)):
        # The UDP port of the same number, which none of the servers uses, is the reservation.
        held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            held.bind(("127.0.0.1", port))
            with socket.socket() as probe:
                # What was closed a moment ago holds up no server, which sets this too.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            held.close()
        else:
            held.detach()  # held until this process ends
            return port
    raise RuntimeError(f"no port of {_PORTS} is free")
