"""Downloads files of the Hugging Face Hub into its cache.

The package huggingface_hub knows the Hub's address, the login, and the files of a repository. It discards the beginning of
an interrupted download, which may be a gigabyte, so this module downloads by plain HTTP, which can resume. The Hub does not
offer files of more than 50 GB by plain HTTP; these are left to huggingface_hub.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote as url_quote

from .._version import __version__
from ..errors import EdgeGemmaOSError
from ..installation import pip_line
from .cache import cache_folder, repository_folder

__all__ = ["CHECKING", "AbsentError", "Hub", "HubFile", "UnreachableError", "check_room", "fetch"]

Progress = Callable[[str, int, int], None]
CHECKING = "checking "
"""Prefix of a file's name in `Progress` while its checksum is computed."""

LARGEST_OVER_HTTP = 50_000_000_000
ATTEMPTS = 5  # failed attempts in a row, none of which has brought a byte
PATIENCE = 300.0  # seconds for which another process may get no further; a checksum takes less
PAUSE = 1.0  # seconds after the first failed attempt; it doubles with each further one
_METADATA_TIMEOUT = 20.0
_HEX = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


@dataclass(frozen=True)
class HubFile:
    """A file as the Hub lists it."""

    name: str
    size: int
    checksum: str  #: SHA-256 of a file in LFS; SHA-1 of a small file in git
    in_git: bool


class AbsentError(EdgeGemmaOSError):
    """A repository or revision does not exist. The caller may try the next one."""


class UnreachableError(EdgeGemmaOSError):
    """The Hub cannot be asked: no connection, or not allowed. What the cache has may do."""


def fetch(
    hub: Hub, repository: str, revision: str, commit: str, wanted: list[HubFile], progress: Progress, room: int = 0
) -> tuple[str, int]:
    """Downloads the wanted files of a commit unless the cache has them, and makes `revision` point at the commit. `room` more
    bytes must be free.

    Returns the folder that has the files, and the number of bytes that were downloaded. The folder is the snapshot of an older
    commit with the same files if nothing is missing in a cache that cannot be written.
    """
    folder = repository_folder(repository)
    snapshot = os.path.join(folder, "snapshots", commit)
    missing = [file for file in wanted if not _cached(folder, snapshot, file)]
    check_room(sum(max(file.size - _size(_partial(folder, file)), 0) for file in missing), room)
    done = 0
    for file in missing:
        url = f"{hub.endpoint}/{repository}/resolve/{commit}/{url_quote(file.name)}"
        if file.size > LARGEST_OVER_HTTP:
            with _read_only_explained(folder):
                path = hub.download(repository, file, commit)
            _verify(path, file, repository, progress)
            done += file.size
        else:
            with _read_only_explained(folder), _one_at_a_time(hub, folder, file, progress):
                if _cached(folder, snapshot, file):  # another process has downloaded it
                    continue
                done += max(file.size - _size(_partial(folder, file)), 0)
                _fetch(hub, url, repository, _partial(folder, file), file, progress)
                _verify(_partial(folder, file), file, repository, progress)
                os.replace(_partial(folder, file), _blob(folder, file))
    try:
        with _read_only_explained(folder):
            for file in wanted:
                _link(folder, snapshot, file)
            if revision != commit:
                _refer(os.path.join(folder, "refs", *revision.split("/")), commit)
    except EdgeGemmaOSError:
        if not missing and (found := _snapshot_with(folder, wanted)):
            return found, 0
        raise
    return snapshot, done


# ---- the Hub -----------------------------------------------------------------------------------------------------


class Hub:
    """The Hugging Face Hub, through huggingface_hub. Errors of that package become EdgeGemmaOSError with a one-line message."""

    def __init__(self) -> None:
        try:
            import huggingface_hub
            from huggingface_hub import constants, errors, utils
            from huggingface_hub.utils import http_stream_backoff
        except ImportError as error:
            raise UnreachableError(
                f"downloading needs the package huggingface_hub, version 1 or later: `{pip_line('huggingface_hub')}`.",
                "file",
            ) from error
        self._library, self._errors, self.utils, self._stream = huggingface_hub, errors, utils, http_stream_backoff
        self.timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        self.endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        if not self.endpoint.startswith(("http://", "https://")):
            raise EdgeGemmaOSError(f"HF_ENDPOINT is {self.endpoint}, but an address begins with https://.", "file")
        try:  # the headers have the token, which is in a file
            self.headers = utils.build_hf_headers(library_name="edge-gemma", library_version=__version__)
        except OSError as error:
            raise EdgeGemmaOSError(
                f"{error.filename} cannot be read: {error.strerror}. Check HF_HOME.", "file"
            ) from error

    def listing(
        self, repository: str, revision: str | None, endings: tuple[str, ...] = (".gguf",)
    ) -> tuple[str, dict[str, HubFile], str | None]:
        """The commit of a revision, its files with these endings by name, and the architecture of one of them if the Hub tells
        it.

        Raises AbsentError for an unknown repository or revision.
        """
        api = self._library.HfApi(self.endpoint, library_name="edge-gemma", library_version=__version__)
        try:
            with self.explained(repository, revision):
                info = api.model_info(repository, revision=revision, files_metadata=True, timeout=_METADATA_TIMEOUT)
            entries = [entry for entry in info.siblings if entry.rfilename.endswith(endings)]
            files = [HubFile(e.rfilename, e.size, e.lfs.sha256 if e.lfs else e.blob_id, not e.lfs) for e in entries]
            hexadecimal = all(_HEX.fullmatch(text) for text in (info.sha, *(file.checksum for file in files)))
            sized = all(isinstance(file.size, int) for file in files)
            if not (hexadecimal and sized) or any({"", ".", ".."} & set(file.name.split("/")) for file in files):
                raise ValueError("commits, checksums and names become parts of paths, so they must be harmless")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, ValueError) and "proxy" in str(error).lower():
                raise UnreachableError(f"the proxy{_proxies()} cannot be used: {error}.", "file") from error
            raise UnreachableError(f"{self.endpoint} does not answer as the Hugging Face Hub does.", "file") from error
        except ImportError as error:  # of a library that only some proxies need
            needs = f"`{pip_line('socksio')}`" if "socks" in str(error).lower() else str(error).rstrip(".")
            raise UnreachableError(f"the proxy{_proxies()} needs another package: {needs}.", "file") from error
        architecture = (getattr(info, "gguf", None) or {}).get("architecture")
        return info.sha, {file.name: file for file in files}, architecture

    def download(self, repository: str, file: HubFile, commit: str) -> str:
        """Downloads a file with huggingface_hub. Returns its path in the cache."""
        with self.explained(repository):
            return self._library.hf_hub_download(
                repository, file.name, revision=commit, cache_dir=cache_folder(), endpoint=self.endpoint
            )

    def stream(self, url: str, start: int) -> Any:
        """Requests a file from byte `start` on. Returns a context manager, which yields the response."""
        headers = {**self.headers, "Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
        return self._stream(
            "GET", url, headers=headers, timeout=self.timeout, retry_on_exceptions=(), retry_on_status_codes=()
        )

    def lost(self, error: Exception) -> bool:
        """Whether the connection failed, or a server that may recover, so that another attempt makes sense."""
        if isinstance(error, self._errors.HfHubHTTPError):
            return error.response.status_code in (408, 500, 502, 503, 504)
        return isinstance(error, self._errors.HTTPError)

    @contextlib.contextmanager
    def explained(self, repository: str, revision: str | None = None) -> Iterator[None]:
        """Turns exceptions of huggingface_hub into EdgeGemmaOSError, with a message that says what to do."""
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
                f"there is no repository {repository} at {self.endpoint}, or it is private: check the name, or {login}.",
                "file",
            ) from error
        except self._errors.RevisionNotFoundError as error:
            raise AbsentError(
                f"{repository} has no revision {revision!r}: see {page} for its branches and tags.", "file"
            ) from error
        except self._errors.HFValidationError as error:
            raise AbsentError(f"{repository} is not a valid name of a repository.", "file") from error
        except self._errors.HfHubHTTPError as error:
            status = error.response.status_code
            advice = {
                401: f"your token is not valid: {login}",
                403: f"your token gives no access to it: {login}",
                404: "the file does not exist any more: try again",
                429: "there were too many requests: try again in some minutes",
            }.get(status, "try again later")
            kind = UnreachableError if status == 429 or status >= 500 else EdgeGemmaOSError
            raise kind(f"{page} answered with status {status}; {advice}.", "file") from error
        except self._errors.OfflineModeIsEnabled as error:
            raise UnreachableError("HF_HUB_OFFLINE is set: unset it to download.", "file") from error
        except self._errors.HTTPError as error:
            reason = str(error).rstrip(".") or type(error).__name__
            proxy = _proxies()
            check = f"the connection and the proxy{proxy}" if proxy else "the connection"
            raise UnreachableError(
                f"cannot reach {self.endpoint}: {reason}. Check {check}, and run the command again: the download is continued.",
                "file",
            ) from error
        except OSError as error:
            if message := _certificates(error):
                raise EdgeGemmaOSError(message, "file") from error
            raise


def _proxies() -> str:
    """The variables of the environment that name a proxy, for a message; "" without."""
    names = [
        name
        for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
        if os.environ.get(name, os.environ.get(name.lower()))
    ]
    return f" of {' and '.join(names)}" if names else ""


def _certificates(error: OSError) -> str | None:
    """What is wrong with the certificates that the environment names; None if the error is another one."""
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        path = os.environ.get(variable)
        if path and not os.path.exists(path):
            return f"{variable} is {path}, which does not exist: correct it, or unset it."
        if path and isinstance(error, ssl.SSLError):
            return f"{variable} is {path}, which has no certificates that can be read: correct it, or unset it."
    return None


# ---- one file ----------------------------------------------------------------------------------------------------


def _fetch(hub: Hub, url: str, repository: str, part: str, file: HubFile, progress: Progress) -> None:
    """Downloads what the partial file `part` lacks, with several attempts, and appends it."""
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
                        out.truncate(0)  # the server ignores the range and sends the whole file
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
        os.fsync(out.fileno())  # a power failure must not damage a file that has passed the check


def _verify(path: str, file: HubFile, repository: str, progress: Progress) -> None:
    """Compares the checksum of a file. Removes the file and raises an error if it is wrong."""
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
            f"{file.checksum[:12]}.... The file was removed: run the command again.",
            "file",
        )


def check_room(size: int, room: int = 0) -> None:
    """Raises an error if the disk of the cache has less than `size` bytes left for a download, and `room` for what is made of
    it."""
    folder = cache_folder()
    place = os.path.abspath(folder)
    while not os.path.isdir(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    disk = shutil.disk_usage(place)
    if size + room > disk.free and disk.total:  # some network file systems tell nothing
        more = f", and {room / 1e9:.3g} GB are needed for what is made of it" if room else ""
        raise EdgeGemmaOSError(
            f"the download has {size / 1e9:.3g} GB{more}, but {folder} has room for {disk.free / 1e9:.3g} GB: make room, or "
            "set HF_HOME to a folder on another disk.",
            "file",
        )


@contextlib.contextmanager
def _full_disk_explained(part: str) -> Iterator[None]:
    """Turns the system's error for a full disk into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise EdgeGemmaOSError(
            f"the disk of {os.path.dirname(part)} is full after {_size(part) / 1e9:.3g} GB. Make room and run the command "
            "again: the download is continued.",
            "file",
        ) from error


@contextlib.contextmanager
def _one_at_a_time(hub: Hub, folder: str, file: HubFile, progress: Progress) -> Iterator[None]:
    """Holds the lock of a blob: the lock that huggingface_hub uses, too. Waits for another process as long as it gets on."""
    from filelock import Timeout

    cache, name = os.path.split(folder)
    lock = os.path.join(cache, ".locks", name, f"{file.checksum}.lock")
    for path in (lock, _blob(folder, file)):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    with contextlib.ExitStack() as stack:
        have, since = -1, time.monotonic()
        while True:
            try:
                stack.enter_context(hub.utils.WeakFileLock(lock, timeout=0.5))
                break
            except Timeout as error:
                now = _progress_of_others(folder, file)
                if now != have:
                    have, since = now, time.monotonic()
                elif time.monotonic() - since >= PATIENCE:
                    raise EdgeGemmaOSError(
                        f"{file.name} is being downloaded by another process, which does not get on: wait until it has ended. "
                        f"If there is none, remove {lock}.",
                        "file",
                    ) from error
                progress(file.name, min(have, file.size), file.size)
        yield


# ---- the cache ---------------------------------------------------------------------------------------------------


def _blob(folder: str, file: HubFile) -> str:
    """The path of a file's content in the cache."""
    return os.path.join(folder, "blobs", file.checksum)


def _partial(folder: str, file: HubFile) -> str:
    """The path of a download that is not complete."""
    return f"{_blob(folder, file)}.edge-gemma.incomplete"


def _progress_of_others(folder: str, file: HubFile) -> int:
    """How many bytes another process has of a file, which may be a program of Hugging Face's with a name of its own."""
    return max(_size(_partial(folder, file)), _size(f"{_blob(folder, file)}.incomplete"))


def _snapshot_with(folder: str, files: list[HubFile]) -> str | None:
    """A snapshot that has all these files, of any commit; None without."""
    place = os.path.join(folder, "snapshots")
    for commit in sorted(os.listdir(place)) if os.path.isdir(place) else []:
        snapshot = os.path.join(place, commit)
        paths = [(os.path.realpath(os.path.join(snapshot, file.name)), _blob(folder, file)) for file in files]
        if all(os.path.isfile(path) and path == os.path.realpath(blob) for path, blob in paths):
            return snapshot
    return None


def _cached(folder: str, snapshot: str, file: HubFile) -> bool:
    """Whether the cache has a file: as a blob, or, on a system without symbolic links, in the snapshot."""
    return file.size in (_size(_blob(folder, file)), _size(os.path.join(snapshot, file.name)))


def _size(path: str) -> int:
    """The size of a file; 0 if it does not exist."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _refer(reference: str, commit: str) -> None:
    """Makes a branch or tag point at a commit. A reference that does already is left alone."""
    with contextlib.suppress(OSError, ValueError):
        if Path(reference).read_text().strip() == commit:
            return
    os.makedirs(os.path.dirname(reference), exist_ok=True)
    Path(reference).write_text(commit)


@contextlib.contextmanager
def _read_only_explained(folder: str) -> Iterator[None]:
    """Turns the system's error for a folder that cannot be written into one that says what to do."""
    try:
        yield
    except OSError as error:
        no_folder = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST) and error.filename is not None
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) and not no_folder:
            raise
        raise EdgeGemmaOSError(
            f"{error.filename or folder} cannot be written: {error.strerror}. Set HF_HOME to a folder of your own, or ask who "
            "keeps this cache.",
            "file",
        ) from error


def _link(folder: str, snapshot: str, file: HubFile) -> None:
    """Puts a blob into a snapshot under its name. If it is there already, its date is renewed: the newest is used first."""
    pointer = os.path.join(snapshot, file.name)
    if _size(pointer) == file.size:
        with contextlib.suppress(OSError):  # a cache that cannot be written to is used all the same
            os.utime(pointer, follow_symlinks=os.utime not in os.supports_follow_symlinks)
        return
    os.makedirs(os.path.dirname(pointer), exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.remove(pointer)
    try:
        os.symlink(os.path.relpath(_blob(folder, file), os.path.dirname(pointer)), pointer)
    except OSError:  # this disk has no symbolic links
        os.replace(_blob(folder, file), pointer)
