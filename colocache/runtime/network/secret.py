"""The secrets of a group, and what is derived from them. Any thread may call what is here.

Whoever has a secret of the group is a member of it. Two secrets are for the time of a change: the first is the one
that this host uses, the other one is accepted as well. Three deployments change a secret, and each host always accepts
what its neighbours use: ``old,new``, then ``new,old``, then ``new``.

A key is made in two steps:

1. scrypt (RFC 7914) makes the root of the secret and the group's name. It takes 16 MiB, and about a tenth of a
   second: `python -m timeit -n 1 -s "import hashlib" "hashlib.scrypt(b'', salt=b'', n=2**14, r=8, p=1)"`. That is what
   each guess costs somebody who tries out weak secrets.
2. BLAKE2b (RFC 7693), keyed with the root, makes one key for each use. The use is the ``person`` of the hash, so no key
   says anything about another.

The name of the group is part of the root. So a secret that two groups share opens the one to nobody who has got hold of
the other one's keys.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import stat
from dataclasses import dataclass, field

from ...errors import ConfigError
from ...interruptions import raise_if_from_handler

VARIABLE, FILE_VARIABLE = "COLOCACHE_SECRET", "COLOCACHE_SECRET_FILE"

LEAST, MOST = 32, 1024  # characters of a secret
LARGEST_FILE = 4096  # bytes
KEY = 32  # bytes of every key

_PREFIX = b"colocache/1/"  # the 1 is the version of the derivation: another way gets another number
_COST, _BLOCK, _LANES = 2**14, 8, 1  # of scrypt; RFC 7914 calls them N, r and p
_MAKE_ONE = "`colocache secret` prints a good one"


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret of the group. Its text is in no repr, so no log line and no traceback shows it."""

    text: str = field(repr=False)


def new_secret() -> str:
    """Return a new secret: 43 characters of base64url, made of 32 random bytes."""
    return secrets.token_urlsafe(KEY)


def read_secrets(text: str | None, file: str | None) -> tuple[Secret, ...]:
    """Return the secrets of the group: mine first, then the other one that is accepted. None is given: an empty tuple.

    ``text`` is the value of COLOCACHE_SECRET, with a comma between two secrets. ``file`` is that of
    COLOCACHE_SECRET_FILE, a path; the file has one secret in each line. Empty lines and parts do not count, and an
    empty variable counts as unset.

    Raise ConfigError if both are given, if the file cannot be read or is open to others, and if a secret cannot be
    used. The text names the variable and never shows a secret.
    """
    text, file = (text or "").strip(), (file or "").strip()
    if text and file:
        raise ConfigError(f"{VARIABLE} and {FILE_VARIABLE} are both set: keep one of them, best {FILE_VARIABLE}")
    if file:
        return _checked(_contents(file).splitlines(), f"{FILE_VARIABLE}={file}", "one in each line")
    return _checked(text.split(","), VARIABLE, "with a comma between them") if text else ()


def _checked(parts: list[str], name: str, form: str) -> tuple[Secret, ...]:
    found = list(dict.fromkeys(filter(None, map(str.strip, parts))))
    if not found:
        raise ConfigError(f"{name} has no secret in it: {_MAKE_ONE}")
    if len(found) > 2:
        raise ConfigError(
            f"{name} has {len(found)} secrets: give one, or while it is changed two, {form}. The first is the one that "
            "this host uses, and the other one is accepted"
        )
    for number, each in enumerate(found, 1):
        which = f"{name}: the secret" if len(found) == 1 else f"{name}: secret {number} of {len(found)}"
        if len(each) < LEAST:
            raise ConfigError(f"{which} has {len(each)} characters, and must have at least {LEAST}: {_MAKE_ONE}")
        if len(each) > MOST:
            raise ConfigError(f"{which} has {len(each)} characters, and may have {MOST} at most: {_MAKE_ONE}")
        # Other characters have several spellings in Unicode, which look alike and give different keys. And a comma
        # would make two secrets of one that moves from the file into the variable.
        if not (each.isascii() and each.isprintable() and "," not in each):
            raise ConfigError(f"{which} may have only printable ASCII characters, without commas: {_MAKE_ONE}")
    return tuple(map(Secret, found))


def _contents(path: str) -> str:
    name = f"{FILE_VARIABLE}={path}"
    try:
        # A link is followed, because Kubernetes mounts secrets as links. A named pipe must not block.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:  # ValueError: there is a null character in the path
        raise_if_from_handler(error)
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{name} cannot be read: {why}. Give the path of a file with the group's secret") from error
    with contextlib.ExitStack() as owned:
        owned.callback(os.close, descriptor)
        found = os.fstat(descriptor)  # of the open file: nobody can exchange it before it is read
        if wrong := _what_is_wrong(found):
            raise ConfigError(f"{name} {wrong}")
        try:
            contents = os.read(descriptor, LARGEST_FILE + 1)
        except OSError as error:
            raise_if_from_handler(error)
            raise ConfigError(f"{name} cannot be read: {error.strerror}") from error
    if len(contents) > LARGEST_FILE:
        raise ConfigError(f"{name} has more than {LARGEST_FILE} bytes: that is no file of secrets. {_MAKE_ONE}")
    return contents.decode("ascii", "replace")  # what is not ASCII is refused with its secret


def _what_is_wrong(found: os.stat_result) -> str:
    """Return what is wrong with a file of secrets, and what to do, or an empty text. It follows the path.

    It belongs to this user, or to root, who gives containers and services their secrets. Others must not be able to
    read it. Nor may its group write to it: who writes the secret decides who comes in. But the group may read, because
    a container that does not run as root gets its secret in no other way: as a file of root's that is mounted with a
    group of the container's (fsGroup in Kubernetes).
    """
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        return "is not a plain file: give the path of a file with the group's secret"
    if found.st_uid not in (os.geteuid(), 0):
        return (
            f"belongs to user {found.st_uid}: it must belong to root or to user {os.geteuid()}, who runs this process"
        )
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        return f"has mode {mode:04o}, so other users can read or change it: set it to 0600, or to 0640 for its group"
    return ""


def derived(secret: Secret, group: str, use: bytes) -> bytes:
    """Return the key of 32 bytes for one use: ``b"curve server"``, or another of at most 16 bytes.

    Uses that are taken: ``curve server`` and ``curve client``. ``slot`` and ``hmac`` are kept free for the ring and for
    signatures. The first call for a secret and a group takes about a tenth of a second, and later ones do not. Two
    threads that are the first at once both compute, and get the same. Raise ConfigError if this Python has no scrypt.
    """
    return hashlib.blake2b(key=_root(secret, group), person=use, digest_size=KEY).digest()


@functools.lru_cache(maxsize=8)
def _root(secret: Secret, group: str) -> bytes:
    if not hasattr(hashlib, "scrypt"):
        raise ConfigError(f"{VARIABLE} needs scrypt, which this Python's hashlib lacks: use a Python with OpenSSL")
    salt = _PREFIX + group.encode()
    return hashlib.scrypt(secret.text.encode(), salt=salt, n=_COST, r=_BLOCK, p=_LANES, dklen=KEY)
