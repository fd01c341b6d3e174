"""Fetches files of the Hugging Face Hub into its cache.

huggingface_hub knows the Hub: where it is, who is logged in, what a repository has. The bytes themselves are fetched here,
by plain HTTP, because huggingface_hub throws away the beginning of a download that was interrupted, which may be a gigabyte.
Only files of more than 50 GB, which plain HTTP does not give, are left to huggingface_hub.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote as url_quote

from .._version import __version__
from ..errors import EdgeGemmaOSError
from .cache import cache_folder, repository_folder

__all__ = ["CHECKING", "AbsentError", "Hub", "HubFile", "fetch"]

Progress = Callable[[str, int, int], None]
CHECKING = "checking "
"""Stands before a file's name while its checksum is computed."""

LARGEST_OVER_HTTP = 50_000_000_000
ATTEMPTS = 5  # in a row without a new byte
PAUSE = 1.0  # seconds after the first, twice as long after each further one
_METADATA_TIMEOUT = 20.0
_HEX = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


@dataclass(frozen=True)
class HubFile:
    """A file as the Hub lists it."""

    name: str
    size: int
    checksum: str  # of LFS, a SHA-256; of git (small files) a SHA-1
    in_git: bool


class AbsentError(EdgeGemmaOSError):
    """A repository or revision that is not there, so that the next one may be tried."""


def fetch(hub: Hub, repository: str, revision: str, commit: str, wanted: list[HubFile], progress: Progress) -> int:
    """Brings the wanted files of a commit into the cache and makes `revision` point at it. Returns the bytes that came."""
    folder = repository_folder(repository)
    snapshot = os.path.join(folder, "snapshots", commit)
    missing = [file for file in wanted if not _cached(folder, snapshot, file)]
    to_come = sum(file.size - min(file.size, _size(_partial(folder, file))) for file in missing)
    _check_room(to_come)
    for file in missing:
        url = f"{hub.endpoint}/{repository}/resolve/{commit}/{url_quote(file.name)}"
        if file.size > LARGEST_OVER_HTTP:
            path = hub.download(repository, file, commit)
            _verify(path, file, repository, progress)
        else:
            with _one_at_a_time(hub, folder, file):
                _fetch(hub, url, repository, _partial(folder, file), file, progress)
                _verify(_partial(folder, file), file, repository, progress)
                os.replace(_partial(folder, file), _blob(folder, file))
    for file in wanted:
        _link(folder, snapshot, file)
    if revision != commit:
        reference = os.path.join(folder, "refs", *revision.split("/"))
        os.makedirs(os.path.dirname(reference), exist_ok=True)
        Path(reference).write_text(commit)
    return to_come


# ---- the Hub -----------------------------------------------------------------------------------------------------


class Hub:
    """The Hugging Face Hub as huggingface_hub reaches it. Its errors come out as ours, each one line."""

    def __init__(self) -> None:
        try:
            import huggingface_hub
            from huggingface_hub import constants, errors, utils
            from huggingface_hub.utils import http_stream_backoff
        except ImportError as error:
            raise EdgeGemmaOSError(
                "downloading needs the package huggingface_hub, version 1 or later: pip install 'edge-gemma[hub]'.",
                "file",
            ) from error
        self._library, self._errors, self.utils, self._stream = huggingface_hub, errors, utils, http_stream_backoff
        self.timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        self.endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self.headers = utils.build_hf_headers(library_name="edge-gemma", library_version=__version__)

    def listing(self, repository: str, revision: str | None) -> tuple[str, dict[str, HubFile]]:
        """The commit of a revision, and its GGUF files by name. Raises AbsentError when there is none."""
        api = self._library.HfApi(self.endpoint, library_name="edge-gemma", library_version=__version__)
        try:
            with self.explained(repository, revision):
                info = api.model_info(repository, revision=revision, files_metadata=True, timeout=_METADATA_TIMEOUT)
            entries = [entry for entry in info.siblings if entry.rfilename.endswith(".gguf")]
            files = [HubFile(e.rfilename, e.size, e.lfs.sha256 if e.lfs else e.blob_id, not e.lfs) for e in entries]
            hexadecimal = all(_HEX.fullmatch(text) for text in (info.sha, *(file.checksum for file in files)))
            if not hexadecimal or any({"", ".", ".."} & set(file.name.split("/")) for file in files):
                raise ValueError("these become parts of paths")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise EdgeGemmaOSError(f"{self.endpoint} does not answer like a Hugging Face Hub.", "file") from error
        return info.sha, {file.name: file for file in files}

    def download(self, repository: str, file: HubFile, commit: str) -> str:
        """Leaves a file to huggingface_hub. Returns its path in the cache."""
        with self.explained(repository):
            return self._library.hf_hub_download(
                repository, file.name, revision=commit, cache_dir=cache_folder(), endpoint=self.endpoint
            )

    def stream(self, url: str, start: int) -> Any:
        """A context manager of the response to a request for a file from byte `start` on."""
        headers = {**self.headers, "Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
        return self._stream(
            "GET", url, headers=headers, timeout=self.timeout, retry_on_exceptions=(), retry_on_status_codes=()
        )

    def lost(self, error: Exception) -> bool:
        """Whether it is the connection that failed, or a server that may recover."""
        if isinstance(error, self._errors.HfHubHTTPError):
            return error.response.status_code in (408, 500, 502, 503, 504)
        return isinstance(error, self._errors.HTTPError)

    @contextlib.contextmanager
    def explained(self, repository: str, revision: str | None = None) -> Iterator[None]:
        """Turns what goes wrong at the Hub into one line."""
        page = f"{self.endpoint}/{repository}"
        login = "log in with `hf auth login` or set HF_TOKEN"
        try:
            yield
        except self._errors.GatedRepoError as error:
            raise EdgeGemmaOSError(
                f"{repository} is gated: accept its licence at {page}, then {login}.", "file"
            ) from error
        except self._errors.RepositoryNotFoundError as error:
            raise AbsentError(
                f"there is no repository {repository} at {self.endpoint}, or it is private: check the name; if it is "
                f"yours, {login}.",
                "file",
            ) from error
        except self._errors.RevisionNotFoundError as error:
            raise AbsentError(
                f"{repository} has no revision {revision!r}: its branches and tags are at {page}.", "file"
            ) from error
        except self._errors.HFValidationError as error:
            raise AbsentError(f"{repository} cannot be the name of a repository.", "file") from error
        except self._errors.HfHubHTTPError as error:
            status = error.response.status_code
            advice = {
                401: f"it does not know your token: {login}",
                403: f"your token does not reach that far: {login}",
                404: "the file is not there any more; try again",
                429: "too many requests; try again in some minutes",
            }.get(status, "try again later")
            raise EdgeGemmaOSError(f"{page}: the answer was {status}: {advice}.", "file") from error
        except self._errors.OfflineModeIsEnabled as error:
            raise EdgeGemmaOSError("HF_HUB_OFFLINE is set: unset it to download.", "file") from error
        except self._errors.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise EdgeGemmaOSError(
                f"cannot reach {self.endpoint}: {reason}. Check the connection and run the command again; it goes on "
                "where it stopped.",
                "file",
            ) from error


# ---- one file ----------------------------------------------------------------------------------------------------


def _fetch(hub: Hub, url: str, repository: str, part: str, file: HubFile, progress: Progress) -> None:
    """Makes the partial file complete, appending to what is there."""
    failures = 0
    with _full_disk_explained(part), hub.explained(repository), open(part, "ab") as out:
        if out.tell() > file.size:
            out.truncate(0)
        while (have := out.seek(0, os.SEEK_END)) < file.size:
            progress(file.name, have, file.size)
            problem: Exception | None = None
            try:
                with hub.stream(url, have) as response:
                    hub.utils.hf_raise_for_status(response)
                    if have and response.status_code != 206:
                        out.truncate(0)  # the server does not do parts and sends everything
                    done = out.seek(0, os.SEEK_END)
                    for piece in response.iter_bytes():
                        out.write(piece)
                        done += len(piece)
                        progress(file.name, done, file.size)
            except Exception as error:
                if not hub.lost(error):
                    raise
                problem = error
            if (now := out.seek(0, os.SEEK_END)) < file.size:
                failures = 1 if now > have else failures + 1
                if failures >= ATTEMPTS:
                    raise problem or EdgeGemmaOSError(f"{url} ends too early: {now} of {file.size} bytes.", "file")
                time.sleep(PAUSE * 2 ** (failures - 1))
        os.fsync(out.fileno())  # what is checked once must not be lost later


def _verify(path: str, file: HubFile, repository: str, progress: Progress) -> None:
    """Compares the checksum. Removes what is wrong."""
    checksum = hashlib.sha1(f"blob {file.size}\0".encode()) if file.in_git else hashlib.sha256()
    done = 0
    with open(path, "rb") as data:
        while piece := data.read(1 << 20):
            checksum.update(piece)
            done += len(piece)
            progress(CHECKING + file.name, done, file.size)
    if checksum.hexdigest() != file.checksum:
        os.remove(os.path.realpath(path))
        raise EdgeGemmaOSError(
            f"{file.name} of {repository} arrived damaged: its checksum is {checksum.hexdigest()[:12]}..., not "
            f"{file.checksum[:12]}.... It was removed; run the command again.",
            "file",
        )


def _check_room(size: int) -> None:
    """Raises when the cache's disk has less than `size` bytes left."""
    folder = cache_folder()
    place = folder
    while not os.path.isdir(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    free = shutil.disk_usage(place).free
    if size > free:
        raise EdgeGemmaOSError(
            f"{size / 1e9:.3g} GB are to be downloaded, but {folder} has room for {free / 1e9:.3g} GB: make room, or set "
            "HF_HOME to a folder on another disk.",
            "file",
        )


@contextlib.contextmanager
def _full_disk_explained(part: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise EdgeGemmaOSError(
            f"the disk of {os.path.dirname(part)} is full; {_size(part) / 1e9:.3g} GB are there. Make room and run the "
            "command again: it goes on where it stopped.",
            "file",
        ) from error


@contextlib.contextmanager
def _one_at_a_time(hub: Hub, folder: str, file: HubFile) -> Iterator[None]:
    """Holds the lock of a blob, the same that huggingface_hub takes."""
    from filelock import Timeout

    cache, name = os.path.split(folder)
    lock = os.path.join(cache, ".locks", name, f"{file.checksum}.lock")
    for path in (lock, _blob(folder, file)):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hub.utils.WeakFileLock(lock, timeout=0.1))
        except Timeout as error:
            raise EdgeGemmaOSError(
                f"{file.name} is being downloaded by another process: wait for it.", "file"
            ) from error
        yield


# ---- the cache ---------------------------------------------------------------------------------------------------


def _blob(folder: str, file: HubFile) -> str:
    return os.path.join(folder, "blobs", file.checksum)


def _partial(folder: str, file: HubFile) -> str:
    return f"{_blob(folder, file)}.edge-gemma.incomplete"


def _cached(folder: str, snapshot: str, file: HubFile) -> bool:
    """Whether a file is there; without symbolic links, it is in the snapshot alone."""
    return file.size in (_size(_blob(folder, file)), _size(os.path.join(snapshot, file.name)))


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _link(folder: str, snapshot: str, file: HubFile) -> None:
    """Puts a blob into a snapshot under its name, or renews the date that tells what was pulled last."""
    pointer = os.path.join(snapshot, file.name)
    if _size(pointer) == file.size:
        with contextlib.suppress(OSError):  # a cache that is not ours to change serves as well
            os.utime(pointer, follow_symlinks=os.utime not in os.supports_follow_symlinks)
        return
    os.makedirs(os.path.dirname(pointer), exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.remove(pointer)
    try:
        os.symlink(os.path.relpath(_blob(folder, file), os.path.dirname(pointer)), pointer)
    except OSError:  # there are none on this disk
        os.replace(_blob(folder, file), pointer)
