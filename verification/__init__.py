"""Programs that verify colocache for longer, or with more, than tests can. None is part of the package."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the repository: where `colocache`, `tests` and `verification` lie
