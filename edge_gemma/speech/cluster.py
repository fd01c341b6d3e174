"""An archive on many machines: `transcribe_on_ray`. Ray Data gives groups of recordings to a pool of actors.

An actor has one open model, whose weights are mapped: one for each machine. The driver writes the records (results.py), so each
is there once and whole, whatever ends a machine or the driver.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..audio.folders import SOUND_ENDINGS, find_recordings, is_list, list_entries
from ..audio.source import open_audio
from ..engine.model import Model
from ..errors import EdgeGemmaError, EdgeGemmaOSError
from ..installation import pip_line
from .many import Recording
from .results import Results, filesystem
from .transcriber import Transcriber
from .transcript import Transcript

__all__ = ["Summary", "transcribe_on_ray"]

# Recordings that an actor gets at once, and their bytes: what a lost machine may cost.
_GROUP, _GROUP_BYTES = 16, 64_000_000
_REMOTE = "://"


@dataclass
class Summary:
    """What a run has done: numbers of recordings, and seconds of sound.

    Attributes:
        failures: (path, reason) of each recording that failed.
    """

    done: int
    skipped: int
    seconds: float
    failures: list[tuple[str, str]]


def transcribe_on_ray(
    address: str,
    names: Iterable[str],
    output: str,
    *,
    format: str = "jsonl",
    model: str,
    mmproj: str | None = None,
    threads: int | None = None,
    options: dict[str, Any],
    progress: Callable[[dict[str, Any], int, int], None] = lambda record, done, all: None,
) -> Summary:
    """Transcribes recordings on the machines of a Ray cluster, one model on each.

    Args:
        address: of the cluster, "host:port"; "auto" for the one that runs on this machine, "local" for this machine alone.
        names: files, folders, lists and patterns as in `find_recordings`, and URLs that fsspec reads: of files, of folders, and
            in lists. Every machine must be able to read them under these names.
        output: folder, or URL of one, for the records; see results.py. Recordings whose records are there are skipped, unless
            their size, their time or the options have changed.
        format: "jsonl" or "parquet".
        model, mmproj: paths or names of the model, the same on every machine.
        threads: of each model; None for all cores of the smallest machine.
        options: arguments of `Transcriber`, which can be written as JSON.
        progress: called with each new record, and how many of all are done.

    Raises:
        EdgeGemmaError: "unsupported" without Ray; "file" for names that cannot be read and a cluster that cannot be reached;
            "state" when Ray gives up.
    """
    try:
        import ray  # type: ignore[import-not-found,unused-ignore]
        import ray.data  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise EdgeGemmaError(
            f"Archives on a cluster need Ray: `{pip_line('edge-gemma[ray]')}`.", "unsupported"
        ) from error
    asked = json.dumps({"model": os.path.basename(model), **options}, sort_keys=True)
    found = list(_found(names))
    wanted = {path: _key(path, stamp, asked) for path, stamp, _ in found}
    results = Results(output, format)
    results.keep(wanted)
    left = [(path, wanted[path], size) for path, _, size in found if path not in results.done]
    summary = Summary(0, len(found) - len(left), 0.0, [])
    if not left:
        return summary
    _connect(ray, address)
    nodes = [int(node["Resources"]["CPU"]) for node in ray.nodes() if node["Alive"] and "CPU" in node["Resources"]]
    cores = threads or min(nodes)
    groups = list(_groups(left))
    pool = (1, max(1, min(len(groups), sum(number // cores for number in nodes))))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    data = ray.data.from_items([{"group": json.dumps(group)} for group in groups], override_num_blocks=len(groups))
    records = data.map_batches(
        _Actor,
        fn_constructor_args=(model, mmproj, cores, options),
        batch_size=1,
        concurrency=pool,
        num_cpus=cores,
    )
    try:
        for row in records.iter_rows():
            record = json.loads(row["record"])
            if not results.add(record):
                continue
            if record.get("error"):
                summary.failures.append((record["path"], record["error"]))
            else:
                summary.done += 1
                summary.seconds += record["duration"]
            progress(record, summary.done + len(summary.failures), len(left))
    except ray.exceptions.RayError as error:
        reason = str(getattr(error, "cause", None) or error).strip().splitlines()[-1].rstrip(".")
        raise EdgeGemmaError(f"the cluster gave up: {reason}.", "state") from error
    finally:
        results.flush()
    return summary


def _connect(ray: Any, address: str) -> None:
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it tells its makers what it is used for, unless told not to
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise EdgeGemmaOSError(f"the Ray cluster {address} cannot be reached: {reason}.", "file") from error


def _found(names: Iterable[str]) -> Iterator[tuple[str, str, int]]:
    """The path of each recording, what tells whether it has changed, and its bytes."""
    seen: set[str] = set()
    for name in names:
        for path in _paths(name):
            if path not in seen:
                seen.add(path)
                yield _stamped(path)


def _paths(name: str) -> Iterator[str]:
    try:
        if _REMOTE in name:
            yield from _remote_paths(name)
        elif is_list(name):
            folder = os.path.dirname(name)
            for entry in list_entries(name):
                yield from _paths(entry if _REMOTE in entry else os.path.join(folder, os.path.expanduser(entry)))
        else:
            yield from (os.path.abspath(each.path) for each in find_recordings([name]))
    except OSError as error:
        if isinstance(error, EdgeGemmaError):
            raise
        raise EdgeGemmaOSError(f"{name} cannot be read: {error}.", "file") from error


def _remote_paths(name: str) -> Iterator[str]:
    fs, path = filesystem(name)
    if not fs.isdir(path):
        yield name
        return
    for each in sorted(fs.find(path)):
        if str(each).lower().endswith(SOUND_ENDINGS):
            yield str(fs.unstrip_protocol(each))


def _stamped(path: str) -> tuple[str, str, int]:
    try:
        fs, place = filesystem(path)
        info = fs.info(place)
    except (OSError, ValueError):  # told when it is opened
        return path, "", 0
    marks = [info.get(name) for name in ("size", "mtime", "ETag", "etag", "LastModified", "last_modified", "sha256")]
    return path, repr([mark for mark in marks if mark is not None]), int(info.get("size") or 0)


def _key(path: str, stamp: str, asked: str) -> str:
    return hashlib.blake2b("\0".join((path, stamp, asked)).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _groups(left: Iterable[tuple[str, str, int]]) -> Iterator[list[tuple[str, str]]]:
    """The recordings in groups, the largest first, so that no machine is left with a long one at the end."""
    group: list[tuple[str, str]] = []
    total = 0
    for path, key, size in sorted(left, key=lambda each: -each[2]):
        if group and (len(group) == _GROUP or total + size > _GROUP_BYTES):
            yield group
            group, total = [], 0
        group.append((path, key))
        total += size
    if group:
        yield group


class _Actor:
    """A model on a machine of the cluster."""

    def __init__(self, model: str, mmproj: str | None, threads: int, options: dict[str, Any]) -> None:
        self._name = os.path.basename(model)
        self._model = Model.load(model, mmproj=mmproj, threads=threads)
        self._transcriber = Transcriber(self._model, **options)

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
        """Yields the record of each recording of the groups, as JSON."""
        for group in batch["group"]:
            for record in self._records(json.loads(group)):
                yield {"record": [json.dumps(record)]}

    def _records(self, group: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
        with tempfile.TemporaryDirectory(prefix="edge-gemma-") as folder:
            segments: list[Any] = []
            recordings = (
                Recording(path, _Sound(path, folder, number), data=key) for number, (path, key) in enumerate(group)
            )
            for event in self._transcriber.many(recordings):
                if event.segment:
                    segments.append(event.segment)
                    continue
                record = {"path": event.recording.name, "key": event.recording.data, "model": self._name}
                if event.error:
                    yield record | {"error": " ".join(str(event.error).split())}
                else:
                    whole = Transcript(segments)
                    told = {
                        "duration": round(event.duration or 0.0, 3),
                        "language": self._transcriber.language or event.language,
                        "to": self._transcriber.to,
                        "text": whole.text,
                        "translation": whole.translation,
                        "warning": event.warning,
                    }
                    told = {name: value for name, value in told.items() if value is not None}
                    yield record | told | {"segments": [_short(segment) for segment in segments]}
                segments = []


def _short(segment: Any) -> dict[str, Any]:
    """A segment without its words; times and probabilities to thousandths."""
    values = segment.as_dict()
    values.pop("words", None)
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in values.items()}


class _Sound:
    """Opens a recording; one that is not on this machine is brought first."""

    def __init__(self, path: str, folder: str, number: int) -> None:
        self._path, self._folder, self._number = path, folder, number

    def __call__(self) -> Any:
        if _REMOTE not in self._path:
            return open_audio(self._path)
        fs, place = filesystem(self._path)
        local = os.path.join(self._folder, f"{self._number}{os.path.splitext(place)[1]}")
        try:
            fs.get_file(place, local)
        except Exception as error:  # each file system has its own
            raise EdgeGemmaOSError(f"{self._path} cannot be read: {error}.", "file") from error
        return open_audio(local)
