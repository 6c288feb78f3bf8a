"""Files that a user names: opened without waiting for what may never come."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import PurePath
from typing import BinaryIO, Final

_OPENED_BY_THE_SHELL: Final = ("/dev/fd", "/proc/self/fd")
_NONBLOCK: Final[int] = getattr(os, "O_NONBLOCK", 0)
"""0 on Windows, where `set_blocking` refuses what is no pipe."""


def open_regular_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Return a file, open to read.

    To open a pipe waits for a writer, and a device may have no end. A descriptor that the shell has opened, as
    `<(command)` does, has its writer, and is taken.

    Args:
        path: where it is.

    Raises:
        OSError: it cannot be opened, or is a pipe or a device.
    """
    stream = open(path, "rb", opener=open_at_once)  # noqa: SIM115
    mode = os.fstat(stream.fileno()).st_mode
    if stat.S_ISREG(mode) or _is_opened_by_the_shell(path):
        return stream
    stream.close()
    raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", os.fspath(path))


def open_at_once(path: str, flags: int) -> int:
    """Return a descriptor as `os.open` does, without waiting for the other end of a pipe; reads and writes do wait.

    Args:
        path: what to open.
        flags: as for `os.open`.

    Raises:
        OSError: it cannot be opened; with `errno.ENXIO`, it is to be written to, and nobody reads it.
    """
    descriptor = os.open(path, flags | _NONBLOCK)
    if _NONBLOCK:
        os.set_blocking(descriptor, True)
    return descriptor


def _is_opened_by_the_shell(path: str | os.PathLike[str]) -> bool:
    return str(path) == "/dev/stdin" or str(PurePath(path).parent) in _OPENED_BY_THE_SHELL
