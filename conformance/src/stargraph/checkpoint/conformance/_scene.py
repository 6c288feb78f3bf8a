"""What a script in a child process is given: the target, the store, and a line to the parent."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, TextIO

from stargraph.checkpoint.conformance._target import Target
from stargraph.checkpoint.protocol import Checkpoint


class Scene:
    """What a script is given.

    Attributes:
        target: the driver.
        location: the store.
        arguments: what the parent said.
    """

    def __init__(self, target: Target, location: str, arguments: dict[str, Any], channel: TextIO) -> None:
        self.target = target
        self.location = location
        self.arguments = arguments
        self._channel = channel

    def report(self, event: str, **details: Any) -> None:
        """Tell the parent something, at once."""
        self.send({"event": event, **details})

    def send(self, message: dict[str, Any]) -> None:
        """Write one line to the parent, at once."""
        self._channel.write(json.dumps(message) + "\n")
        self._channel.flush()

    async def heard(self) -> str:
        """Wait for a line from the parent."""
        line: str = await asyncio.to_thread(sys.stdin.readline)
        return line.strip()

    def acknowledged(self, checkpoint: Checkpoint) -> None:
        """Tell the parent that a write returned."""
        self.report("acked", run_id=checkpoint.run_id, step=checkpoint.step, digest=checkpoint.digest)
