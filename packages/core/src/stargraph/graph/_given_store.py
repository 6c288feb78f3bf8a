"""What a program gives for a store."""

from __future__ import annotations

import os

from stargraph.checkpoint.protocol import Checkpointer


def check_checkpointer(checkpointer: object) -> None:
    """Refuse what is not a checkpointer; what it is may hold a password, and is not shown.

    Raises:
        TypeError: it lacks a method, or is a class.
    """
    if isinstance(checkpointer, type):
        raise TypeError(f"checkpointer is the class {checkpointer.__name__}: pass an instance of it")
    if isinstance(checkpointer, str | os.PathLike):
        raise TypeError(
            "checkpointer is the address of a store: pass what open_checkpointer of stargraph.checkpoint.registry"
            " returns for it"
        )
    if not isinstance(checkpointer, Checkpointer):
        raise TypeError(
            f"checkpointer is of type {type(checkpointer).__qualname__}: pass an object with the methods of"
            " stargraph.checkpoint.protocol.Checkpointer"
        )
