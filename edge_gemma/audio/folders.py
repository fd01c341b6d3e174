"""Which recordings a folder, a list or a pattern means: `find_recordings`.

Knows files by their names alone; what is in them is found when they are opened.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import EdgeGemmaError, EdgeGemmaOSError

__all__ = ["SOUND_ENDINGS", "Found", "find_recordings", "is_collection", "is_list", "list_entries"]

SOUND_ENDINGS = tuple(
    """.wav .flac .ogg .oga .opus .mp3 .mp2 .m4a .aac .aif .aiff .aifc .au .snd .caf .w64 .rf64 .wma
    .amr .webm .mp4 .mkv .mov .3gp""".split()
)
"""How the names of files with sound end, in small letters. Videos have sound, too."""

_LISTS = (".txt", ".lst", ".list", ".m3u", ".m3u8")
_WILD = frozenset("*?[")


@dataclass(frozen=True)
class Found:
    """A recording.

    Attributes:
        path: of the file.
        place: where its result belongs, below the folder of results: its path below the folder that was named.
    """

    path: Path
    place: Path


def is_collection(name: str) -> bool:
    """Whether a name means several recordings: a folder, a list of paths (.txt, .lst, .list, .m3u, .m3u8) or a pattern."""
    if os.path.exists(name):
        return os.path.isdir(name) or name.lower().endswith(_LISTS)
    return not _WILD.isdisjoint(name)


def find_recordings(
    names: Iterable[str | os.PathLike[str]],
    *,
    leave_out: str | os.PathLike[str] | None = None,
    failed: Callable[[str, EdgeGemmaError], None] | None = None,
) -> Iterator[Found]:
    """The recordings that names mean, each once, in the order of the names and sorted within a folder.

    Args:
        names: of files; folders, with all folders in them; lists, which have a path on each line, relative to their own folder,
            and comments behind #; patterns, with ** for any number of folders.
        leave_out: a folder whose files are no recordings, such as that of the results.
        failed: called with what cannot be read, and why, before the search goes on; None raises it.

    In folders and patterns a recording is a file whose name ends like that of a sound or video file; what is hidden is left
    out. In lists and on its own every file is one.

    Raises EdgeGemmaOSError "file" for a folder or list that cannot be read.
    """
    seen: set[str] = set()
    without = None if leave_out is None else os.path.realpath(leave_out)

    def fail(name: str, error: OSError) -> None:
        ours = EdgeGemmaOSError(f"{name} cannot be read: {error.strerror or error}.", "file")
        if failed is None:
            raise ours from error
        failed(name, ours)

    for name in names:
        for path, place in _expand(os.fspath(name), fail):
            real = os.path.realpath(path)
            hidden = without is not None and os.path.commonpath([real, without]) == without
            if real not in seen and not hidden:
                seen.add(real)
                yield Found(Path(path), place)


def _expand(name: str, fail: Callable[[str, OSError], None]) -> Iterator[tuple[str, Path]]:
    if os.path.isdir(name):
        yield from _walk(name, fail)
    elif not is_collection(name):
        yield name, Path(os.path.basename(name))
    elif os.path.exists(name):
        try:
            yield from _listed(name)
        except OSError as error:
            fail(name, error)
    else:
        folder = _fixed_part(name)
        for path in sorted(glob.iglob(name, recursive=True)):
            if os.path.isfile(path) and _is_sound(path):
                yield path, Path(os.path.relpath(path, folder or "."))


def _walk(folder: str, fail: Callable[[str, OSError], None]) -> Iterator[tuple[str, Path]]:
    for root, folders, files in os.walk(folder, onerror=lambda error: fail(error.filename or folder, error)):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for file in sorted(files):
            if _is_sound(file) and not file.startswith("."):
                path = os.path.join(root, file)
                yield path, Path(os.path.relpath(path, folder))


def is_list(name: str) -> bool:
    """Whether a name is that of a file with a list of paths."""
    return name.lower().endswith(_LISTS) and os.path.isfile(name)


def list_entries(name: str) -> Iterator[str]:
    """The paths that stand in a list, as they are written. Raises OSError."""
    with open(name, encoding="utf-8-sig", errors="surrogateescape") as lines:
        for line in lines:
            entry = line.strip()
            if entry and not entry.startswith("#"):
                yield entry


def _listed(name: str) -> Iterator[tuple[str, Path]]:
    folder = os.path.dirname(name)
    for entry in list_entries(name):
        path = os.path.join(folder, os.path.expanduser(entry))
        place = os.path.relpath(path, folder or ".")
        if place.startswith(os.pardir):  # elsewhere: its whole path, so that no two have the same place
            place = os.path.splitdrive(os.path.abspath(path))[1].lstrip(os.sep)
        yield path, Path(place)


def _fixed_part(pattern: str) -> str:
    """The folder of a pattern that has no wildcards."""
    folder = os.path.dirname(pattern)
    while not _WILD.isdisjoint(folder):
        folder = os.path.dirname(folder)
    return folder


def _is_sound(name: str) -> bool:
    return name.lower().endswith(SOUND_ENDINGS)
