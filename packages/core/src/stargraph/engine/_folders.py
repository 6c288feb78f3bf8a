"""Modules beside a graph file: they belong to that graph, and Python finds them under a name of their own.

The folder `/srv/flows` is the package `stargraph.engine._folders._2fsrv_2fflows`, and the module `steps.py` in it is
`….steps`. So two folders may each have a `steps.py`, and none of them takes the place of a module that another package
imports. Within such a module, `import helpers` finds `helpers.py` of the same folder first: its import statements go by
an `__import__` of their own, which Python looks up among a module's builtins. The name leads to the folder, so any
process can import the module by it, as pickle does.

This module is the package of all of them.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from stargraph.ir import FOLDER_NAME

__path__: list[str] = []

_PREFIX: Final = f"{__name__}."
_VERSION: Final = "__"
_NAMED: Final = re.compile(re.escape(_PREFIX) + r"[A-Za-z0-9_]+\.")
_SUFFIXES: Final = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES)

_LOCK: Final = threading.Lock()
_newest: Final[dict[str, str]] = {}
_loaded: Final[dict[str, dict[str, tuple[int, int] | None]]] = {}
_others: Final[dict[str, tuple[str, ...]]] = {}
_owned: Final[dict[tuple[str, str], bool]] = {}
_noted: Final[dict[str, tuple[int, int]]] = {}


def package_of(folder: Path, others: Sequence[str] = ()) -> str:
    """Return the package of the modules in a folder; another one if a module of it has changed since it was loaded.

    Args:
        others: the packages of further folders, whose modules are found after those that Python finds on its own.
    """
    path = str(folder.resolve())
    with _LOCK:
        package = _newest.get(path)
        if package is None or any(_stamp(file) != stamp for file, stamp in _loaded.get(package, {}).items()):
            version = 0 if package is None else int(package.partition(_VERSION)[2] or 0) + 1
            package = _PREFIX + _encoded(path) + (f"{_VERSION}{version}" if version else "")
            _newest[path] = package
        for key in [key for key in _owned if key[0] == package]:
            del _owned[key]
        _others[package] = tuple(others)
    # What was written within the grain of the folder's time stamp would not be found.
    importlib.invalidate_caches()
    return package


def find_module(name: str, package: str | None) -> ModuleType:
    """Import a module: from a folder if it is there, else as Python finds it, else from the further folders.

    Args:
        name: the name, as a graph says it.
        package: what `package_of` returned, or None for what Python finds.

    Raises:
        ImportError: there is none, or it failed.
    """
    home = None if package is None else _home_of(package, name.partition(".")[0])
    return importlib.import_module(name if home is None else f"{home}.{name}")


def home_of(module: str) -> str | None:
    """Return the package of the folder that a module belongs to, or None if Python found it on its own.

    Args:
        module: the name that Python has for it.
    """
    return _PREFIX + module.removeprefix(_PREFIX).partition(".")[0] if module.startswith(_PREFIX) else None


def plain_name(module: str) -> str:
    """Return the name that a module has in its folder; of any other module, its name.

    Args:
        module: the name that Python has for it.
    """
    if not module.startswith(_PREFIX):
        return module
    return module.removeprefix(_PREFIX).partition(".")[2]


def plain_text(text: str) -> str:
    """Return a text in which modules of folders have the names that they have there.

    Args:
        text: a message or a traceback.
    """
    return _NAMED.sub("", text) if _PREFIX in text else text


def is_other_file(module: ModuleType, name: str, package: str) -> bool:
    """Return whether a name stands for another file in a folder than the one that a module was loaded from.

    Args:
        package: the package of the folder.
    """
    file, folder = getattr(module, "__file__", None), Path(_folder_of(package))
    # os.path, since Path.is_file raises for a name that is too long.
    is_there = any(os.path.isfile(path) for path in _files_of(folder, name.partition(".")[0]))  # noqa: PTH113
    return is_there and (file is None or not _is_file(Path(file), folder, name))


def _home_of(package: str, first: str) -> str | None:
    """Return the package that a top-level name belongs to, or None if Python finds it on its own."""
    if f"{package}.{first}" in sys.modules or _owns(package, first):
        return package
    others = _others.get(package, ())
    if not others or _found_by_python(first) is not None:
        return None
    return next((other for other in others if _owns(other, first)), None)


def _owns(package: str, first: str) -> bool:
    key = (package, first)
    if key not in _owned:
        _owned[key] = _is_owned(Path(_folder_of(package)), first)
    return _owned[key]


def _is_owned(folder: Path, first: str) -> bool:
    is_module = any(os.path.isfile(file) for file in _files_of(folder, first))  # noqa: PTH113  # as above
    if not is_module and not os.path.isdir(folder / first):  # noqa: PTH112
        return False
    spec = _found_by_python(first)
    if spec is None:
        return True
    # A folder without __init__.py gives way to every module of its name; and what the process itself finds here is
    # one module, whoever imports it, unless its file has changed since.
    is_found = spec.origin is not None and _is_file(Path(spec.origin), folder, first)
    return is_module and (not is_found or _is_outdated(first))


def _is_file(file: Path, folder: Path, name: str) -> bool:
    return file.resolve() in [path.resolve() for path in _files_of(folder, name)]


def _files_of(folder: Path, name: str) -> list[Path]:
    return [folder / name / "__init__.py", *(folder / f"{name}{suffix}" for suffix in _SUFFIXES)]


def _is_outdated(first: str) -> bool:
    """Return whether a file of a module that is loaded, or of one inside it, is not the one that was loaded."""
    names = [name for name in sys.modules if name == first or name.startswith(f"{first}.")]
    specs = [getattr(sys.modules[name], "__spec__", None) for name in names]
    # Each of them is noted, so that a later change is noticed.
    changed = [_has_changed(spec) for spec in specs if spec is not None and spec.has_location]
    return True in changed


def _has_changed(spec: ModuleSpec) -> bool:
    assert spec.origin is not None
    stamp = _stamp(spec.origin)
    if stamp is None or _noted.setdefault(spec.origin, stamp) != stamp:
        return True
    try:
        with Path(spec.cached or "").open("rb") as bytecode:
            head = bytecode.read(16)
    except OSError:
        return False
    # Python has written the time and the size of the source when it loaded it, unless it goes by hashes.
    is_by_time = int.from_bytes(head[4:8], "little") == 0
    written = int.from_bytes(head[8:12], "little"), int.from_bytes(head[12:16], "little")
    return is_by_time and written != (stamp[0] // 10**9 & 0xFFFFFFFF, stamp[1] & 0xFFFFFFFF)


def _found_by_python(first: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(first)
    except (ImportError, ValueError):
        # A module that does not say where it comes from still exists.
        return ModuleSpec(first, None) if first in sys.modules else None


def _import(
    package: str,
    name: str,
    globals: Mapping[str, Any] | None = None,  # noqa: A002  # the names that __import__ has
    locals: Mapping[str, Any] | None = None,  # noqa: A002
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """Stand for `__import__` in the modules of a folder."""
    first = name.partition(".")[0]
    home = _home_of(package, first) if level == 0 else None
    if home is None:
        return builtins.__import__(name, globals, locals, fromlist, level)
    if fromlist:
        return builtins.__import__(f"{home}.{name}", globals, locals, fromlist, 0)
    importlib.import_module(f"{home}.{name}")
    return sys.modules[f"{home}.{first}"]


class _Loader(SourceFileLoader):
    """Loads a module of a folder from its source, whose imports begin in that folder."""

    def path_stats(self, path: str) -> Mapping[str, Any]:
        # No bytecode: it is taken for that of any source of the same second and size.
        raise OSError

    def exec_module(self, module: ModuleType) -> None:
        package = _PREFIX + module.__name__.removeprefix(_PREFIX).partition(".")[0]
        _loaded.setdefault(package, {})[self.path] = _stamp(self.path)
        module.__dict__[FOLDER_NAME] = plain_name(module.__name__)
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": functools.partial(_import, package)}
        super().exec_module(module)


class _Finder:
    """Finds the packages of folders, and the modules in them."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(_PREFIX):
            return None
        head, _, inner = name.removeprefix(_PREFIX).partition(".")
        if not inner:
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [_folder_of(_PREFIX + head)]
            return spec
        found = PathFinder.find_spec(name, path, target)
        if found is not None and isinstance(found.loader, SourceFileLoader):
            found.loader = _Loader(name, found.loader.path)
        return found


def _encoded(folder: str) -> str:
    data = os.fsencode(folder)
    return "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"_{byte:02x}" for byte in data)


def _folder_of(package: str) -> str:
    encoded = package.removeprefix(_PREFIX).partition(_VERSION)[0]
    return os.fsdecode(re.sub(rb"_([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), encoded.encode()))


def _stamp(file: str) -> tuple[int, int] | None:
    try:
        status = os.stat(file)  # noqa: PTH116  # a path object per file costs more than the call
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


# First, since Python's own finder would find them too, and load them as it does others.
sys.meta_path.insert(0, _Finder)
