"""A checkpoint store in memory, for tests and experiments. It keeps nothing once its process has ended."""

from stargraph.checkpoint.memory._checkpointer import MemoryCheckpointer
from stargraph.checkpoint.memory._store import MemoryStore

__all__ = ["MemoryCheckpointer", "MemoryStore"]
