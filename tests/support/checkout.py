"""A copy of the project's files, for tests that build in it: other tests may write into the project meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

from support.paths import ROOT

_BUILT = (".git", ".venv", "build", "dist", "*.egg-info", "_engine*.so", "__pycache__", ".*_cache", ".hypothesis")


def copy_checkout(folder: Path) -> Path:
    """Copies the files of the project, without what was built, into `folder`, which must not exist. Returns it."""
    return Path(shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*_BUILT)))
