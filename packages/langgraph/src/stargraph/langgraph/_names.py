"""The names of logs: each thread has one log for each of its checkpoint namespaces."""

from __future__ import annotations

import hashlib
import re
from typing import Final

GRAPH_ID: Final = "langgraph"
"""The graph id of every log of the saver; `stargraph runs --graph langgraph` lists them."""

THREAD_TAG: Final = "thread_id"
NAMESPACE_TAG: Final = "checkpoint_ns"

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_SLUG: Final = 48
_HASH_DIGITS: Final = 24


def run_id_of(thread_id: str, namespace: str, generation: int = 0) -> str:
    """Return the run id of a log: something to recognise the thread by, and a hash of its whole name.

    Args:
        namespace: its checkpoint namespace.
        generation: how many logs of this name were deleted before; the id of a deleted run is never used again.
    """
    digest = hashlib.sha256(f"{thread_id}\0{namespace}".encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]
    name = f"{thread_id}.{namespace}" if namespace else thread_id
    slug = _UNSAFE.sub("-", name)[:_SLUG].strip(".-") or "thread"
    return f"lg:{slug}:{digest}" + (f":{generation}" if generation else "")


def generation_of(run_id: str) -> int:
    """Return the generation that a run id of `run_id_of` names."""
    parts = run_id.split(":")
    return int(parts[3]) if len(parts) > 3 else 0
