"""Places that tests use: the project, its test data, and the large fixtures that are no part of the project."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
DATA = TESTS / "data"
#: Large fixtures: the folder that EDGE_GEMMA_SHARED names, else `shared` beside the project. It need not exist.
SHARED = Path(os.environ.get("EDGE_GEMMA_SHARED") or ROOT.parent / "shared")
