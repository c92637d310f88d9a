"""The steps of a call that waits.

Only a load waits. It is a generator, a flow: it yields a `colocache.core.host.claims.Sleep` where it waits for another
call's load, and a `colocache.operations.load.Run` where the user's function is called. `colocache.operations.drive`
carries out these steps, in a thread or in a task.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

T = TypeVar("T")

Flow = Generator[Any, Any, T]
