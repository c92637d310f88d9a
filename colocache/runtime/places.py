"""Where a group's region lies: which directory, and what can go wrong with it.

By default this is `colocache-<uid>` in /dev/shm, where that is a memory file system. All processes of one user must
come to the same answer at any time. So it depends on how large the file system is, and not on how full.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from hashlib import blake2b

from ..errors import ConfigError
from ..interruptions import raise_if_from_handler
from .files import make_private, why_not_private

SHARED_MEMORY = "/dev/shm"
LEAST_SIZE = 16 << 20  # bytes of a file system in shared memory that is worth using

_PLAIN_GROUP = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,31}")  # no capitals: on macOS, Shop and shop are one directory

_TMPFS = 0x01021994
_OF_A_NETWORK = {
    0x6969: "NFS", 0x517B: "SMB", 0xFF534D42: "CIFS", 0xFE534D42: "SMB", 0x01021997: "9P", 0x00C36400: "Ceph",
    0x5346414F: "AFS", 0x0BD00BD0: "Lustre", 0x01161970: "GFS2", 0x7461636F: "OCFS2",
}  # fmt: skip

#: Those that write what is changed to another block. A store to mapped memory then needs a new block, also where the
#: file has all of its own. If there is none, the process is killed (SIGBUS).
_COPIES_ON_WRITE = {0x9123683E: "btrfs", 0x2FC12FC1: "ZFS", 0xCA451A4E: "bcachefs", 0xF2F52010: "F2FS"}


def open_place(group: str, chosen: str | None) -> tuple[str, str]:
    """Return the real path of the base directory and the name of the group's directory in it, both created if needed.

    ``chosen`` is the setting: an absolute path, or None for the default. Raise ConfigError if that fails, or if other
    users can get in. Raise OSError if the file system fails.
    """
    base = base_directory(chosen)
    make_private(base)
    base = os.path.realpath(base)
    wrong = why_not_shared(base)
    if wrong:
        raise ConfigError(wrong)
    name = directory_name(group)
    make_private(os.path.join(base, name))
    return base, name


def why_not_shared(base: str) -> str:
    """Return why the file system of a directory cannot hold memory that processes share, or an empty text."""
    kind = _kind_of(base) or 0
    network, copying = _OF_A_NETWORK.get(kind), _COPIES_ON_WRITE.get(kind)
    if network is not None:
        return (
            f"the runtime directory {base} is on a file system of a network ({network}), where memory cannot be shared:"
            " set COLOCACHE_DIR to a local directory"
        )
    if copying is not None:
        return (
            f"the runtime directory {base} is on a file system that copies what is written ({copying}), where a full "
            "disk would kill the process: set COLOCACHE_DIR to a directory on a tmpfs, ext4 or XFS"
        )
    return ""


def base_directory(chosen: str | None) -> str:
    """Return the setting, or the default. Create nothing."""
    return chosen or os.path.join(_default(), f"colocache-{os.geteuid()}")


def why_unusable(chosen: str | None) -> str:
    """Return why processes of this user could not meet in a runtime directory, or an empty text. Create nothing."""
    try:
        return why_not_private(base_directory(chosen))
    except OSError as error:  # the system has no temp directory
        raise_if_from_handler(error)
        return str(error)


def _default() -> str:
    # Not below XDG_RUNTIME_DIR: that is set in a login session and not in a service.
    if _is_large_memory(SHARED_MEMORY) and os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
        return SHARED_MEMORY
    return tempfile.gettempdir()


def _is_large_memory(path: str) -> bool:
    if sys.platform != "linux":
        return False
    try:
        size = os.statvfs(path)
    except OSError as error:
        raise_if_from_handler(error)
        return False
    # A tmpfs with no limit says that it has 0 blocks.
    return _is_tmpfs(path) and (size.f_blocks == 0 or size.f_blocks * size.f_frsize >= LEAST_SIZE)


def _is_tmpfs(path: str) -> bool:
    kind = _kind_of(path)
    if kind is not None:
        return kind == _TMPFS
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
            kinds = [fields[2] for fields in map(str.split, mounts) if len(fields) > 2 and fields[1] == path]
    except OSError as error:
        raise_if_from_handler(error)
        return False
    return kinds[-1:] == ["tmpfs"]  # the last one covers those before it


def _kind_of(path: str) -> int | None:
    """Return the number by which Linux tells kinds of file systems apart; None if that is not known."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes

        statfs = ctypes.CDLL(None).statfs
    except (ImportError, OSError, AttributeError) as error:
        raise_if_from_handler(error)
        return None
    answer = (ctypes.c_ulong * 64)()  # struct statfs is shorter, and begins with the kind, a long
    if statfs(os.fsencode(path), ctypes.byref(answer)) != 0:
        return None
    return int(answer[0]) & 0xFFFFFFFF


def directory_name(group: str) -> str:
    """Return the group's own name if that is a plain one. Otherwise add a hash that tells it from all others."""
    if _PLAIN_GROUP.fullmatch(group):
        return group
    digest = blake2b(group.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return re.sub(r"[^A-Za-z0-9_]", "_", group[:16]) + "~" + digest


def room(path: str) -> int:
    """Return how many bytes may be written to new files in a directory. Some room is left for others."""
    found = os.statvfs(path)
    free = found.f_bavail * found.f_frsize if found.f_blocks else sys.maxsize  # 0: a tmpfs with no limit
    return max(0, free - max(1 << 20, free // 16))
