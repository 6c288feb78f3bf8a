"""What a machine did for a contender: CPU of the client and of the server, and bytes that reached the disk."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Work:
    """What was done so far.

    Attributes:
        client_cpu: seconds of this process, all threads.
        server_cpu: seconds of the server's processes; 0 without a server.
        device_bytes: what this process and the server have handed to the disk, as Linux accounts it; 0 elsewhere.
    """

    client_cpu: float
    server_cpu: float
    device_bytes: float

    def __sub__(self, before: Work) -> Work:
        return Work(
            self.client_cpu - before.client_cpu,
            self.server_cpu - before.server_cpu,
            self.device_bytes - before.device_bytes,
        )


def work_of(server: int | None = None) -> Work:
    """Return the work of this process and of a server.

    Args:
        server: the process id of a server, whose children count too.
    """
    processes = [] if server is None else [server, *_children(server)]
    return Work(
        time.process_time(),
        sum(map(_cpu, processes)),
        float(sum(map(_written, [os.getpid(), *processes]))),
    )


def forget_cached(folder: Path) -> None:
    """Have the kernel forget what it keeps in memory of the files in a folder, which are on the disk.

    PostgreSQL fills a segment of its log with zeros by the megabyte, and Linux keeps such a piece as one. It then
    accounts a megabyte for every commit that changes a part of it, and hands the disk that part alone.

    Args:
        folder: a directory with files only.
    """
    for file in folder.iterdir():
        if file.is_file() and hasattr(os, "posix_fadvise"):
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _fields(int(entry.name))
        if fields and int(fields[1]) == parent:
            found.append(int(entry.name))
    return found


def _fields(process: int) -> list[str]:
    """Return what `/proc/PID/stat` says behind the command's name; nothing if the process is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def _cpu(process: int) -> float:
    fields = _fields(process)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _written(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/io").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("write_bytes")), 0)
