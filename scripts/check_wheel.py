"""Build the wheel, install it alone in a fresh virtual environment, and use it there, away from the source tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PROGRAM = """\
import colocache
cache = colocache.Cache("wheel-check")
assert cache.get_or_load("answer", lambda: 42, ttl=60) == cache.get("answer") == 42
assert cache.invalidate("answer").complete and cache.get("answer") is None
cache.close()
"""


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command to its end, with a runtime directory of its own; its failure is this program's."""
    environment = {**os.environ, "COLOCACHE_DIR": str(cwd / "run")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, stdin=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"colocache: failed with status {done.returncode}: {' '.join(map(str, command))}")


def build(into: Path) -> Path:
    """The wheel of this source tree. ``build/`` goes first, for setuptools would pack what is left over in it."""
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", into, ROOT, cwd=into)
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    return next(into.glob("colocache-*.whl"))


def check_contents(wheel: Path) -> None:
    """Exit unless the wheel holds the package, the whole package, its licence, and nothing else."""
    names = [name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")]
    packed = {name for name in names if ".dist-info/" not in name}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "colocache").rglob("*") if path.suffix != ".pyc"}
    wanted = {name for name in sources if (ROOT / name).is_file()} | {"pytest_colocache.py"}
    if packed != wanted:
        sys.exit(f"colocache: the wheel lacks {sorted(wanted - packed)} and holds too many {sorted(packed - wanted)}")
    if not any(name.endswith("/LICENSE") for name in names):
        sys.exit("colocache: the wheel has no LICENSE")


def main() -> None:
    """Build, look inside, install alone, use; keep the wheel in ``dist/``."""
    with tempfile.TemporaryDirectory(prefix="colocache-wheel-") as name:
        scratch = Path(name)
        wheel = build(scratch)
        check_contents(wheel)
        venv.create(scratch / "venv", with_pip=True)
        python = scratch / "venv" / "bin" / "python"
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, cwd=scratch)
        run(python, "-I", "-W", "error", "-c", PROGRAM, cwd=scratch)
        (ROOT / "dist").mkdir(exist_ok=True)
        print(f"dist/{wheel.name} works in an environment of its own ({wheel.stat().st_size // 1024} KiB)")
        shutil.copy(wheel, ROOT / "dist" / wheel.name)


if __name__ == "__main__":
    main()
