"""``check_skips.py report.xml``: fail if pytest's JUnit report holds a test that was skipped without leave.

A test that is skipped where it was meant to run is a test that nobody has. The reasons below are the only ones that
hold on a machine that has everything; each is a regular expression for the beginning of the skip's message.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator

ALLOWED = (
    r"needs Linux",
    r"needs macOS",
    r"needs systemd-analyze",
    r"needs Python 3\.1[2-9]",
)


def skips(report: str) -> Iterator[tuple[str, str]]:
    """The (test, reason) of every skipped test; a test that fails as expected (xfail) did run and is not among them."""
    for case in ET.parse(report).iter("testcase"):
        for skipped in case.iter("skipped"):
            if skipped.get("type") != "pytest.xfail":
                yield f"{case.get('classname')}::{case.get('name')}", skipped.get("message", "")


def is_allowed(reason: str) -> bool:
    """Whether a skip's reason is on the list."""
    return any(re.match(pattern, reason) for pattern in ALLOWED)


def main(report: str) -> None:
    """Print every skip, and exit with 1 if there was one that is not on the list."""
    found = list(skips(report))
    for test, reason in found:
        print(f"{'skipped, as allowed' if is_allowed(reason) else 'SKIPPED WITHOUT LEAVE'}: {test}: {reason}")
    sys.exit(any(not is_allowed(reason) for _, reason in found))


if __name__ == "__main__":
    main(sys.argv[1])
