"""The driver in JavaScript as the kit opens it: `stargraph-conformance run target:target`, in this folder."""

from __future__ import annotations

from pathlib import Path

from stargraph.checkpoint.conformance.stdio import stdio_target

target = stdio_target(["node", str(Path(__file__).with_name("driver.mjs"))])
