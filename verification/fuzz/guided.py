"""One target under atheris, which never returns: ``guided TARGET [libFuzzer's options and directories]``."""

from __future__ import annotations

import shlex
import sys

import atheris

with atheris.instrument_imports(include=["colocache"]):
    from verification.fuzz.targets import TARGETS

if __name__ == "__main__":
    _, target, *options = sys.argv
    # How libFuzzer starts itself again, to merge corpora.
    again = shlex.join((sys.executable, "-m", "verification.fuzz.guided", target))
    atheris.Setup([again, *options], TARGETS[target])
    atheris.Fuzz()
