"""Names by which any process can import a function or a class."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NoReturn

from stargraph.errors import GraphError
from stargraph.ir._models import is_callable_path

SESSION: Final = "__main__"
"""The module of what is defined in a session that no file holds: a notebook, a prompt, `python -c`."""

FOLDER_NAME: Final = "__stargraph_name__"
"""The global by which a module beside a graph file says its name there."""

_NAMED: Final = "Give it a name in a module, and name it: 'package.module:name'."
_WHY: Final = "A run that is resumed in another process imports its code by name."


def callable_path(code: Callable[..., Any]) -> str:
    """Return the name `package.module:name` by which any process can import a function or a class.

    What a script defines is named by the script's file, since `__main__` is another module in another process. What a
    session defines that no file holds is named `__main__:name`, which only this process knows.

    Args:
        code: the function or class.

    Raises:
        GraphError: there is no such name.
    """
    module, name = getattr(code, "__module__", None), getattr(code, "__qualname__", None)
    if isinstance(code, functools.partial) or not isinstance(module, str) or not isinstance(name, str):
        _refuse(f"{code!r} is an object without a name of its own", _NAMED)
    owner = getattr(code, "__self__", None)
    if isinstance(owner, type):
        # A class method is known by the class that it is taken from, which may have inherited it.
        module, name = owner.__module__, f"{owner.__qualname__}.{code.__name__}"
    elif not isinstance(owner, ModuleType | None):
        _refuse(f"{name!r} is bound to an object", _NAMED)
    module = _plain_name(module)
    if "<lambda>" in name:
        _refuse(f"a lambda has no name ({module})", "Define a function at the top of a module.")
    if "<locals>" in name:
        _refuse(
            f"{name!r} is defined inside a function",
            "Define it at the top of a module; a decorator keeps the name of what it wraps by functools.wraps.",
        )
    path = f"{module}:{name}"
    if name.endswith("]"):
        _refuse(
            f"{name!r} is made where it is used",
            f"Give it a name at the top of a module, as in class State({name}): ….",
        )
    if not is_callable_path(path):
        _refuse(f"{path!r} is not a name to import by", "Name the file with letters, digits, '_' and '-'.")
    return path


def check_name(path: str, code: Callable[..., Any]) -> None:
    """Refuse code whose name stands for something else by now: that would run in its place.

    Args:
        path: what `callable_path` returned.
        code: the function or class.

    Raises:
        GraphError: it does.
    """
    name = path.partition(":")[2]
    owner = getattr(code, "__self__", code)
    # The module's own name: that of a module beside a graph file is longer than the one in the path.
    found: Any = sys.modules.get(str((owner if isinstance(owner, type) else code).__module__))
    for part in name.split("."):
        found = getattr(found, part, None)
    # A name that is not bound yet, in a module that is being imported, is looked up when the graph is made.
    while found is not None and not _is_same(found, code):
        found = getattr(found, "__wrapped__", None)
        if found is None:
            _refuse(f"{path!r} is the name of something else by now", "Give each function a name of its own.")


def main_module_name() -> str | None:
    """Return the name by which another process can import the running script, or None if no file holds it."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    # Standard input has a name as well, "<stdin>".
    return Path(file).stem if file and Path(file).is_file() else None


def _plain_name(module: str) -> str:
    if module == SESSION:
        return main_module_name() or SESSION
    return str(getattr(sys.modules.get(module), FOLDER_NAME, module))


def _is_same(found: Any, code: Any) -> bool:
    return found is code or (inspect.ismethod(found) and found == code)


def _refuse(what: str, hint: str) -> NoReturn:
    raise GraphError(f"{what}, so a graph cannot name it", reason="not-importable", hint=f"{_WHY} {hint}")
