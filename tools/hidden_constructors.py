"""What mkdocstrings leaves out of the reference: how Stargraph makes the objects that users are given."""

from __future__ import annotations

from typing import Any

import griffe

from public_api import classes_that_stargraph_makes


class HiddenConstructors(griffe.Extension):
    """An extension of griffe; see https://mkdocstrings.github.io/griffe/guide/users/extending/."""

    def __init__(self) -> None:
        self._classes = classes_that_stargraph_makes()

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Remove the constructor of such a class.

        Args:
            cls: the class, with its members.
        """
        if cls.path in self._classes and "__init__" in cls.members:
            cls.del_member("__init__")
