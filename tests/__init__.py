"""The tests of colocache, laid out as the package is."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]  # of the repository: where `colocache`, `tests` and `verification` lie


def shown(value: Any) -> str:
    """Return the repr of a parameter without addresses, so that a test has the same name in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def printed_with_two_hash_seeds(program: str) -> set[bytes]:
    """Return what a program prints in two processes in which the same objects have other hashes."""
    return {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True, check=True, timeout=60,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
