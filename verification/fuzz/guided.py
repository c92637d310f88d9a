"""One target under atheris, which never returns: ``guided TARGET [libFuzzer's options and directories]``."""

from __future__ import annotations

import shlex
import sys

import atheris

with atheris.instrument_imports(include=["colocache"]):
    from verification.fuzz.targets import TARGETS

if __name__ == "__main__":
    _, target, *options = sys.argv
    again = shlex.join(
        (sys.executable, "-m", "verification.fuzz.guided", target)
    )  # how libFuzzer starts itself anew, to merge corpora
    atheris.Setup([again, *options], TARGETS[target])
    atheris.Fuzz()
