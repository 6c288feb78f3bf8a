"""Load what a graph names by `package.module:name`."""

from __future__ import annotations

import builtins
import os
import sys
import sysconfig
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from stargraph.engine import _folders
from stargraph.engine._folders import find_module, home_of, is_other_file, package_of, plain_name, plain_text
from stargraph.errors import GraphError
from stargraph.ir import SESSION, main_module_name

_OWN: Final = str(Path(_folders.__file__).parents[1]) + os.sep
_LIBRARIES: Final = tuple(
    {sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


@dataclass(frozen=True, slots=True)
class Modules:
    """Where a graph finds the modules that it names: beside its file, then where Python does.

    It is sent to other processes, which find the same modules by it.

    Attributes:
        package: the package of the graph file's folder; None for a graph that no file holds.
        others: the packages of further folders, in which it looks last.
        given: the code that was given as objects, by what names it; another process imports it by name.
    """

    package: str | None = None
    others: tuple[str, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Modules, (self.package, self.others)

    @classmethod
    def beside(cls, file: Path, others: Sequence[Path] = ()) -> Modules:
        """Return where the graph of a file finds its modules.

        Args:
            file: the graph file.
            others: further folders.
        """
        packages = tuple(package_of(folder) for folder in others)
        return cls(package_of(file.resolve().parent, packages), packages)

    @staticmethod
    def named(name: str, others: Sequence[Path] = ()) -> ModuleType:
        """Import a module by its name: from the first of some folders that holds it, else as Python finds it.

        Args:
            others: the folders.

        Raises:
            ImportError: there is none, or it failed.
        """
        packages = [package_of(folder) for folder in others]
        return find_module(name, packages[0] if packages else None)

    @classmethod
    def of(cls, code: Mapping[str, Any]) -> Modules:
        """Return where a graph finds its modules whose code is there already.

        Args:
            code: its functions and classes, by what names them.
        """
        homes = (home_of(str(getattr(target, "__module__", ""))) for target in code.values())
        return cls(next((home for home in homes if home is not None), None), given=code)

    def load(self, path: str, *, wanted_by: str) -> Any:
        """Import what a path names.

        Args:
            path: `package.module:name`; the name may have dots.
            wanted_by: what needs it, for the error.

        Raises:
            GraphError: `reason` is `module-not-found`, `import-failed` or `name-not-found`.
        """
        if path in self.given:
            return self.given[path]
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
            raise import_failed(f"{wanted_by}: importing {path!r}", error) from error
        except Exception as error:
            raise import_failed(f"{wanted_by}: importing {path!r}", error) from error
        for part in name.split("."):
            try:
                found = getattr(found, part)
            except AttributeError:
                if module_name == SESSION:
                    raise _session_error(path, wanted_by) from None
                raise GraphError(
                    f"{wanted_by}: module {module_name!r} has no {name!r}",
                    reason="name-not-found",
                    hint=f"It has: {', '.join(_public_names(found)[:12]) or 'nothing public'}",
                ) from None
        return found

    def load_exception(self, name: str, *, wanted_by: str) -> type[BaseException]:
        """Return an exception class by its builtin name or its `package.module:Class`.

        Args:
            wanted_by: what needs it, for the error.

        Raises:
            GraphError: there is none.
        """
        found = self.load(name, wanted_by=wanted_by) if ":" in name else getattr(builtins, name, None)
        if isinstance(found, type) and issubclass(found, Exception):
            return found
        raise GraphError(
            f"{wanted_by}: {name!r} is no subclass of Exception",
            reason="not-an-exception",
            hint="Name a builtin exception, such as TimeoutError, or package.module:Class.",
        )

    def _module(self, name: str) -> ModuleType:
        main = sys.modules["__main__"]
        if name == SESSION:
            return main
        # A script that runs its own graph would be imported a second time under its file's name.
        if name == main_module_name() and (self.package is None or not is_other_file(main, name, self.package)):
            return main
        return find_module(name, self.package)


def folder_module(file: Path, others: Sequence[Path] = ()) -> ModuleType:
    """Import the module of a file; one of a package is imported as a part of it.

    Args:
        others: further folders, in which it finds modules.

    Raises:
        ImportError: it failed.
    """
    path = file.resolve()
    folder, names = path.parent, [path.stem]
    while (folder / "__init__.py").is_file():
        folder, names = folder.parent, [folder.name, *names]
    if names[-1] == "__init__":
        names.pop()
    return find_module(".".join(names), package_of(folder, [package_of(other) for other in others]))


def _session_error(path: str, wanted_by: str) -> GraphError:
    return GraphError(
        f"{wanted_by}: {path.partition(':')[2]!r} was defined in a session that no file holds, such as a notebook, and"
        " this process does not have it",
        reason="session-code",
        hint="Put it in a module, import it in the notebook, and start the run again.",
    )


def import_failed(what: str, error: BaseException) -> GraphError:
    """Return the error of an import that failed, with the line of user code that failed.

    Args:
        what: what was imported, and by what.
        error: what the import raised.
    """
    file, line = user_line(error)
    place = f" at {file}:{line}" if file else ""
    return GraphError(
        f"{what} failed{place}: {type(error).__name__}: {plain_text(str(error))}",
        reason="import-failed",
        hint="The module itself raises this; fix it there.",
    )


def user_line(error: BaseException) -> tuple[str | None, int | None]:
    """Return the line at which the user's own code raised an exception or called what raised it, or two None.

    Args:
        error: the exception.
    """
    if isinstance(error, SyntaxError) and error.filename is not None:
        return error.filename, error.lineno
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(("<frozen", _OWN, *_LIBRARIES)):
            return frame.filename, frame.lineno
    return None, None


def _public_names(holder: object) -> list[str]:
    return sorted(name for name in vars(holder) if not name.startswith("_")) if hasattr(holder, "__dict__") else []
