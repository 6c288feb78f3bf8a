"""The SQLite checkpoint store: one file, any number of processes of one machine, no server."""

from stargraph.checkpoint.sqlite._checkpointer import SQLiteCheckpointer
from stargraph.checkpoint.sqlite._library import SQLiteLibrary, sqlite_library

__all__ = ["SQLiteCheckpointer", "SQLiteLibrary", "sqlite_library"]
