"""What a program gives for a store."""

from __future__ import annotations

import os

from stargraph.checkpoint.protocol import Checkpointer


def check_checkpointer(checkpointer: object, name: str = "checkpointer") -> None:
    """Refuse what is not a checkpointer; what it is may hold a password, and is not shown.

    Args:
        name: what the argument is called, for the error.

    Raises:
        TypeError: it lacks a method, or is a class.
    """
    if isinstance(checkpointer, type):
        raise TypeError(f"{name} is the class {checkpointer.__name__}: pass an instance of it")
    if isinstance(checkpointer, str | os.PathLike):
        raise TypeError(
            f"{name} is the address of a store: pass what open_checkpointer of stargraph.checkpoint.registry"
            " returns for it"
        )
    if not isinstance(checkpointer, Checkpointer):
        raise TypeError(
            f"{name} is of type {type(checkpointer).__qualname__}: pass an object with the methods of"
            " stargraph.checkpoint.protocol.Checkpointer"
        )
