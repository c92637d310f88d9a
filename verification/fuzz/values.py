"""The codecs that are fuzzed, with a class of each kind that can be registered."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, NamedTuple

from colocache import MsgpackCodec, PickleCodec

try:
    from pydantic import BaseModel, PrivateAttr
except ImportError:  # where only the fuzzer is installed
    BaseModel = None  # type: ignore[assignment,misc]

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


if BaseModel is not None:

    @CODEC.register
    class Model(BaseModel, extra="allow"):
        """A model of pydantic."""

        name: Any
        _private: Any = PrivateAttr(default=None)
