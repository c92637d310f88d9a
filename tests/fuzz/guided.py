"""One target under atheris, which never returns: ``guided.py TARGET [libFuzzer's options and directories]``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))

with atheris.instrument_imports(include=["colocache"]):
    from targets import TARGETS

if __name__ == "__main__":
    program, target, *options = sys.argv
    again = shlex.join((sys.executable, program, target))  # how libFuzzer starts itself anew, to merge corpora
    atheris.Setup([again, *options], TARGETS[target])
    atheris.Fuzz()
