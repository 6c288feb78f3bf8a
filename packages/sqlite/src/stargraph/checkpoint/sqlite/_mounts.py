"""Which filesystem holds a path, as the kernel says."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

_MOUNTINFO: Final = Path("/proc/self/mountinfo")

_NETWORK: Final = frozenset(
    {
        "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs", "gfs2", "glusterfs", "gpfs",
        "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs",
    }
)  # fmt: skip

_NETWORK_FUSE: Final = re.compile(
    r"fuse\.(.*(sshfs|s3|gcs|rclone|gluster|ceph|blob|goofys|dav|juicefs|seaweed|lizardfs|moosefs|mfs|gvfs"
    r"|mountpoint|beegfs|quobyte|cvmfs|alluxio|hdfs|ossfs|cosfs).*)"
)

_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


def network_filesystem(path: Path, mountinfo: str | None = None) -> str | None:
    """Return the type of the network filesystem that holds a path, or None.

    Linux tells in /proc/self/mountinfo; elsewhere nothing is detected.

    Args:
        path: an absolute path without links; it need not exist.
        mountinfo: the kernel's list of mounts, read from /proc unless given.
    """
    if mountinfo is None:
        if not sys.platform.startswith("linux"):
            return None
        try:
            mountinfo = _MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
        except FileNotFoundError:
            return None
    # Most machines have none, and to find the one that holds a path takes longer than all else that opens a store.
    if not any(map(_is_network, {line.partition(" - ")[2].partition(" ")[0] for line in mountinfo.splitlines()})):
        return None
    kind = _type_of_mount(path, mountinfo)
    return kind if _is_network(kind) else None


def _is_network(kind: str) -> bool:
    return kind in _NETWORK or _NETWORK_FUSE.fullmatch(kind) is not None


def _type_of_mount(path: Path, mountinfo: str) -> str:
    """Find the type of the innermost mount above a path; of two on one directory the later one hides the other."""
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        place, _, source = line.partition(" - ")
        if not source:
            continue
        mount = Path(_ESCAPED.sub(lambda match: chr(int(match[1], 8)), place.split(" ")[4]))
        depth = len(mount.parts)
        if depth >= best and path.is_relative_to(mount):
            best, kind = depth, source.split(" ")[0]
    return kind
