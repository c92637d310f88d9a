"""The codecs that are fuzzed, with a class of each kind that can be registered."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, NamedTuple

from colocache.codecs import MsgpackCodec, PickleCodec

CODEC = MsgpackCodec()
PICKLE = PickleCodec(key=b"nobody who sends bytes knows it " * 2)


@CODEC.register
class Colour(enum.Enum):
    """An enum."""

    RED = "r"


@CODEC.register
class Right(enum.Flag):
    """A flag."""

    READ = 1
    WRITE = 2


@CODEC.register
@dataclass
class User:
    """A dataclass."""

    name: Any
    tags: Any


@CODEC.register
class Pair(NamedTuple):
    """A named tuple."""

    left: Any
    right: Any
