"""The tests of colocache, laid out as the package is."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]  # of the repository: where `colocache`, `tests` and `verification` lie


def shown(value: Any) -> str:
    """Return the repr of a parameter without addresses, so that a test has the same name in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
