"""Load what a graph names by `package.module:name`."""

from __future__ import annotations

import builtins
import importlib
import sys
import traceback
from typing import Any

from stargraph.errors import GraphError
from stargraph.ir import main_module_name


def load_object(path: str, *, wanted_by: str) -> Any:
    """Import what a path names.

    Args:
        path: `package.module:name`; the name may have dots.
        wanted_by: what needs it, for the error.

    Raises:
        GraphError: `reason` is `module-not-found`, `import-failed` or `name-not-found`.
    """
    module_name, _, name = path.partition(":")
    try:
        # A script that runs its own graph would be imported a second time under its file's name.
        running = module_name == main_module_name()
        found: Any = sys.modules["__main__"] if running else importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise GraphError(
                f"{wanted_by}: there is no module {error.name!r} to import {path!r} from",
                reason="module-not-found",
                hint="Run from the folder that holds it, put it beside the graph file, or install its package.",
            ) from error
        raise _import_failed(path, wanted_by, error) from error
    except Exception as error:
        raise _import_failed(path, wanted_by, error) from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise GraphError(
                f"{wanted_by}: module {module_name!r} has no {name!r}",
                reason="name-not-found",
                hint=f"It has: {', '.join(_public_names(found)[:12]) or 'nothing public'}",
            ) from None
    return found


def load_exception(name: str, *, wanted_by: str) -> type[BaseException]:
    """Return an exception class by its builtin name or its `package.module:Class`.

    Args:
        name: the name.
        wanted_by: what needs it, for the error.

    Raises:
        GraphError: there is none.
    """
    found = load_object(name, wanted_by=wanted_by) if ":" in name else getattr(builtins, name, None)
    if isinstance(found, type) and issubclass(found, Exception):
        return found
    raise GraphError(
        f"{wanted_by}: {name!r} is not an exception",
        reason="not-an-exception",
        hint="Name a builtin one, as in TimeoutError, or package.module:Class.",
    )


def _import_failed(path: str, wanted_by: str, error: Exception) -> GraphError:
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError):
        place = f" at {error.filename}:{error.lineno}"
    else:
        place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return GraphError(
        f"{wanted_by}: importing {path!r} failed{place}: {type(error).__name__}: {error}",
        reason="import-failed",
        hint="The module itself raises this; mend it there.",
    )


def _public_names(holder: object) -> list[str]:
    return sorted(name for name in vars(holder) if not name.startswith("_")) if hasattr(holder, "__dict__") else []
