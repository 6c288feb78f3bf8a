"""Load what a graph names by `package.module:name`."""

from __future__ import annotations

import builtins
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from stargraph.engine import _folders
from stargraph.engine._folders import find_module, is_other_file, package_of, plain_name, plain_text
from stargraph.errors import GraphError
from stargraph.ir import main_module_name


@dataclass(frozen=True, slots=True)
class Modules:
    """Where a graph finds the modules that it names: beside its file, then where Python does.

    It is sent to other processes, which find the same modules by it.

    Attributes:
        package: the package of the graph file's folder; None for a graph that no file holds.
        others: the packages of further folders, in which it looks last.
    """

    package: str | None = None
    others: tuple[str, ...] = ()

    @classmethod
    def beside(cls, file: Path, others: Sequence[Path] = ()) -> Modules:
        """Return where the graph of a file finds its modules.

        Args:
            file: the graph file.
            others: further folders.
        """
        packages = tuple(package_of(folder) for folder in others)
        return cls(package_of(file.resolve().parent, packages), packages)

    def load(self, path: str, *, wanted_by: str) -> Any:
        """Import what a path names.

        Args:
            path: `package.module:name`; the name may have dots.
            wanted_by: what needs it, for the error.

        Raises:
            GraphError: `reason` is `module-not-found`, `import-failed` or `name-not-found`.
        """
        module_name, _, name = path.partition(":")
        try:
            found: Any = self._module(module_name)
        except ModuleNotFoundError as error:
            missing = plain_name(error.name or "")
            if missing and (module_name == missing or module_name.startswith(f"{missing}.")):
                raise GraphError(
                    f"{wanted_by}: there is no module {missing!r} to import {path!r} from",
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

    def load_exception(self, name: str, *, wanted_by: str) -> type[BaseException]:
        """Return an exception class by its builtin name or its `package.module:Class`.

        Args:
            name: the name.
            wanted_by: what needs it, for the error.

        Raises:
            GraphError: there is none.
        """
        found = self.load(name, wanted_by=wanted_by) if ":" in name else getattr(builtins, name, None)
        if isinstance(found, type) and issubclass(found, Exception):
            return found
        raise GraphError(
            f"{wanted_by}: {name!r} is not an exception",
            reason="not-an-exception",
            hint="Name a builtin one, as in TimeoutError, or package.module:Class.",
        )

    def _module(self, name: str) -> ModuleType:
        main = sys.modules["__main__"]
        # A script that runs its own graph would be imported a second time under its file's name.
        if name == main_module_name() and (self.package is None or not is_other_file(main, name, self.package)):
            return main
        return find_module(name, self.package)


def _import_failed(path: str, wanted_by: str, error: Exception) -> GraphError:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != _folders.__file__]
    if isinstance(error, SyntaxError):
        place = f" at {error.filename}:{error.lineno}"
    else:
        place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return GraphError(
        f"{wanted_by}: importing {path!r} failed{place}: {type(error).__name__}: {plain_text(str(error))}",
        reason="import-failed",
        hint="The module itself raises this; fix it there.",
    )


def _public_names(holder: object) -> list[str]:
    return sorted(name for name in vars(holder) if not name.startswith("_")) if hasattr(holder, "__dict__") else []
