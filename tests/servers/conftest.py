"""What the tests with real servers share: their modules, by the names that these have when they are run as scripts."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
