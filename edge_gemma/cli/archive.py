"""Archives: folders, lists and patterns of recordings, for `transcribe` and `translate`.

Owns where the results lie, the record beside each result, which recordings are done already, the display, and the table at the
end. What a result is, and how an interrupted one goes on, is that of recordings.py.

The record of `talk.txt` is `talk.txt.record`, a line of JSON: which recording the result is of (place, size, time and a digest
of all of its bytes), with which options it was made, and the size and digest of the result.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .common import DONE, FAILED, INTERRUPTED, SEPARATE, UsageError, explain
from .outputs import STDOUT, is_stream, naming, replacing
from .recordings import FileTarget, doubtful, fingerprint, give_way, is_unfinished, named, opened, part_of, usable
from .terminal import ArchiveBar, Interrupt, format_clock, print_error, print_warning

_FORM = {"edge-gemma": "record", "version": 1}
_ENDING = ".record"
_PROBLEMS = {
    "loop": "repeating themselves",
    "speed": "with more words than anybody says",
    "unsure": "improbable",
    "silence": "without speech",
}
_SETTLED = 2.0  # seconds for which a file that arrives has not changed


def write_archive(args: argparse.Namespace, names: list[str], language: str | None, to: str | None = None) -> int:
    """Transcribes (and, with `to`, translates) all recordings that the names mean. Returns the exit status: FAILED if a
    recording failed."""
    format = usable(args.format or "txt", args)
    output = Path(args.output or "").expanduser()
    if args.output in (None, "", "-") or is_stream(output) or (output.exists() and not output.is_dir()):
        raise UsageError(f"{names[0]} has several recordings: give a folder for their results with --output FOLDER.")
    give_way(args)
    with naming(output):
        output.mkdir(parents=True, exist_ok=True)
    with opened(args, format, language, to, guarded=True) as (transcriber, info, identity):
        run = _Run(args, names, output, format, transcriber, info, identity)
        with Interrupt(run.cancel) as interrupt:
            run.all(lambda: interrupt.hit)
    run.table(interrupt.hit)
    if interrupt.hit and not run.idle:
        return INTERRUPTED
    return FAILED if run.failed else DONE


@dataclass(eq=False)
class _Item:
    """A recording of the archive, and where its result goes."""

    path: Path
    place: Path
    output: Path
    stamp: dict[str, Any]  # size and time
    digest: str = ""
    target: FileTarget | None = None
    opened: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    recordings: dict[str | None, Any] = field(default_factory=dict)  # by speaker
    left: int = 1  # channels that are not done
    reached: dict[str | None, float] = field(default_factory=dict)  # seconds, by speaker
    failed: bool = False


class _Run:
    """One run of the command.

    Attributes:
        failed: (what, why), in order.
        idle: whether it only waits for new recordings.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        names: list[str],
        output: Path,
        format: str,
        transcriber: Any,
        info: dict[str, Any],
        identity: dict[str, Any],
    ) -> None:
        self.args, self.names, self.output, self.format = args, names, output, format
        self.transcriber, self.info = transcriber, info
        self.options = {**identity, "format": format, "bilingual": getattr(args, "bilingual", False)}
        self.identity = identity
        self.failed: list[tuple[str, str]] = []
        self.idle = False
        self._open: list[_Item] = []
        self._done = self._skipped = 0
        self._retried: Counter[str] = Counter()
        self._problems: Counter[str] = Counter()
        self._seconds, self._began = 0.0, time.perf_counter()
        self._working = 0.0  # seconds of work, without waiting for recordings
        self._known: set[tuple[str, int, int]] = set()  # paths, sizes and times of what was looked at
        self._cancelled = False
        self._taken: dict[Path, Path] = {}  # result -> place of its recording

    def cancel(self) -> None:
        """Ends the run, from any thread."""
        self._cancelled = True
        self.transcriber.cancel()

    def all(self, hit: Callable[[], bool]) -> None:
        """All recordings, and with --watch those that arrive."""
        from ..errors import Cancelled

        first = True
        while not hit():
            found, waits = self._look(first)
            if first and not found and self.args.watch is None and not self.failed:
                raise UsageError(f"there is no recording in {', '.join(self.names)}.")
            self.idle = False
            began = time.perf_counter()
            with contextlib.suppress(Cancelled):
                self._work(found)
            self._working += time.perf_counter() - began
            if self.args.watch is None:
                return
            first, self.idle = False, not hit()
            self._wait(_SETTLED if waits else self.args.watch)

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._cancelled and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def _look(self, first: bool) -> tuple[list[tuple[Path, Path, int]], bool]:
        """Recordings that were not looked at, with their places and sizes; and whether one is still being written."""
        from ..audio.folders import find_recordings

        found, waits = [], False

        def fail(name: str, error: Exception) -> None:
            if first:
                self._fail(name, error)

        for each in find_recordings(self.names, leave_out=self.output, failed=fail):
            try:
                status = each.path.stat()
            except OSError as error:
                if first:
                    self._fail(str(each.path), error)
                continue
            key = (str(each.path), status.st_size, status.st_mtime_ns)
            if key in self._known:
                continue
            if self.args.watch is not None and time.time() - status.st_mtime < _SETTLED:
                waits = True
                continue
            self._known.add(key)
            found.append((each.path, each.place, status.st_size))
        return found, waits

    def _work(self, found: list[tuple[Path, Path, int]]) -> None:
        with ArchiveBar(len(found), sum(size for *_, size in found)) as bar:
            try:
                for event in self.transcriber.many(self._recordings(found, bar)):
                    item: _Item = event.recording.data[0]
                    try:
                        self._take(item, event, bar)
                    except BrokenPipeError:
                        raise
                    except Exception as error:  # such as a disk that is full
                        self._fail(str(item.path), error)
                        self._close(item, bar)
                        item.failed = True
            finally:
                for item in self._open:
                    item.opened.close()

    def _recordings(self, found: Iterable[tuple[Path, Path, int]], bar: ArchiveBar) -> Iterator[Any]:
        """What is to be transcribed; the rest is counted."""
        from ..speech.many import Recording

        for path, place, size in found:
            try:
                item = self._item(path, place)
                if self._is_done(item):
                    self._skipped += 1
                    bar.finish(size)
                    continue
                speakers = self._speakers(item)
            except Exception as error:
                self._fail(str(path), error)
                bar.finish(size)
                continue
            self._open.append(item)
            for speaker in speakers:
                recording = Recording(str(path), self._opening(item, speaker), data=(item, speaker))
                item.recordings[speaker] = recording
                yield recording

    def _speakers(self, item: _Item) -> list[str | None]:
        """Whose words are looked for, one after the other: those of each channel, or all at once."""
        from ..audio.source import count_channels

        if self.args.channels != SEPARATE:
            return [None]
        item.left = count_channels(item.path)
        return [str(number + 1) for number in range(item.left)] if item.left > 1 else [None]

    def _item(self, path: Path, place: Path) -> _Item:
        status = path.stat()
        stamp = {"bytes": status.st_size, "time": status.st_mtime_ns}
        output = self.output / place.with_name(f"{place.stem}.{self.format}")
        record = _read_record(output)
        theirs = self._taken.get(output, Path(record["recording"]["place"]) if record else place)
        if theirs != place:  # of a recording with the same name and another ending
            output = self.output / place.with_name(f"{place.name}.{self.format}")
        self._taken[output] = place
        return _Item(path, place, output, stamp)

    def _is_done(self, item: _Item) -> bool:
        """Whether the result is there, of this recording and with these options. Raises UsageError where it may not be
        replaced."""
        record, part = _read_record(item.output), part_of(item.output)
        if os.path.lexists(part) and not is_unfinished(part):
            raise UsageError(f"{part} is in the way, and not from an interrupted run: move it.")
        if os.path.lexists(part) or not item.output.exists():
            return False
        if record is None or not _is_result(item.output, record):
            if self.args.force:
                return False
            why = "has no record" if record is None else "was changed since it was written"
            raise UsageError(f"{item.output} {why}: move it, or --force replaces it.")
        if record["options"] != json.loads(json.dumps(self.options)):
            return False
        theirs = record["recording"]
        if all(theirs.get(key) == value for key, value in item.stamp.items()):
            return True
        item.digest = _digest(item.path)
        return bool(theirs["digest"] == item.digest)

    def _opening(self, item: _Item, speaker: str | None) -> Callable[[], Any]:
        def open_sound() -> Any:
            from .. import TranscriptWriter, open_audio

            item.digest = item.digest or _digest(item.path)
            if self.args.channels == SEPARATE:
                source = open_audio(item.path, channel=None if speaker is None else int(speaker) - 1)
            else:
                source = open_audio(item.path, self.args.rate, self.args.channels, self.args.encoding)
            with contextlib.ExitStack() as failed:
                failed.callback(source.close)
                duration = None if source.duration is None else round(source.duration, 3)
                info = {"file": str(item.path), "duration": duration, **self.info}
                info = {name: value for name, value in info.items() if value is not None}
                writer = TranscriptWriter(self.format, self.options["bilingual"], **info)
                if item.target is None:
                    self._begin(item, writer)
                assert item.target is not None
                recording = item.recordings[speaker]
                recording.done = [segment for segment in item.target.done if segment.speaker == speaker]
                item.reached[speaker] = recording.done[-1].end if recording.done else 0.0
                failed.pop_all()
            return source

        return open_sound

    def _begin(self, item: _Item, writer: Any) -> None:
        """Opens the output of a recording."""
        with naming(item.output):
            item.output.parent.mkdir(parents=True, exist_ok=True)
        identity = {"recording": fingerprint(str(item.path)), **self.identity}
        item.target = FileTarget(writer, item.output, identity, resume=not self.args.force, anew=True)
        item.target.__enter__()
        item.opened.callback(item.target.leave)

    def _take(self, item: _Item, event: Any, bar: ArchiveBar) -> None:
        """Writes what an event tells."""
        if item.failed:
            return
        speaker = event.recording.data[1]
        if event.kind == "failed":
            self._fail(str(item.path), event.error)
            item.failed = True  # its other channel, too
        elif event.kind == "segment":
            assert item.target is not None
            with naming(item.output):
                item.target.add(replace(event.segment, speaker=speaker))
            self._seconds += event.segment.end - item.reached[speaker]
            self._retried.update(filter(None, [event.segment.retried]))
            self._problems.update(filter(None, [event.segment.problem]))
            item.reached[speaker] = event.segment.end
            bar.update(item.path.name, event.segment.end, event.duration, item.stamp["bytes"])
            if self.args.verbose and (unsure := doubtful(event.segment)):
                print(f"[{item.path}: {unsure}]", file=sys.stderr)
            return
        else:
            self._seconds += event.duration - item.reached[speaker]
            item.left -= 1
            if item.left:
                return
            self._complete(item, event)
        self._close(item, bar)

    def _close(self, item: _Item, bar: ArchiveBar) -> None:
        bar.finish(item.stamp["bytes"])
        item.opened.close()
        self._open.remove(item)

    def _complete(self, item: _Item, event: Any) -> None:
        assert item.target is not None
        detected = {"language": event.language, "language_detected": event.language is not None}
        with naming(item.output):
            item.target.complete({} if self.transcriber.language else detected, lambda: self._record(item, event))
        self._done += 1
        for sentence in filter(None, (event.assumption, event.warning)):
            print_warning(named(str(item.path), sentence))

    def _record(self, item: _Item, event: Any) -> None:
        """Writes the record of a result that is there."""
        record = {
            **_FORM,
            "recording": {"place": str(item.place), **item.stamp, "digest": item.digest},
            "options": self.options,
            "seconds": round(event.duration, 3),
            "result": {"bytes": item.output.stat().st_size, "digest": _digest(item.output)},
        }
        with replacing(_record_of(item.output), item.output) as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def _fail(self, name: str, error: Exception) -> None:
        reason = named(name, explain(error))
        self.failed.append((name, reason))
        print_error(reason)
        if isinstance(error, OSError) and STDOUT in str(error):
            raise error

    def table(self, interrupted: bool) -> None:
        """Tells on standard error what was done."""
        took = max(self._working, 1e-6)
        speed = f"{format_clock(self._seconds)} of sound in {format_clock(took)}, {self._seconds / took:.1f} times real time"
        rows = [("done", self._done, speed if self._done or self._seconds else "")]
        rows += [("skipped", self._skipped, "done before")] if self._skipped else []
        rows += [("failed", len(self.failed), "")] if self.failed else []
        for name, counted in (("retried", self._retried), ("marked", self._problems)):
            if counted:
                kinds = ", ".join(f"{number} {_PROBLEMS[kind]}" for kind, number in counted.most_common())
                rows.append((name, sum(counted.values()), f"segments: {kinds}"))
        for name, number, text in rows:
            print(f"{name:9}{number:6}  {text}".rstrip(), file=sys.stderr)
        for _, reason in self.failed:
            print(f"  {reason}", file=sys.stderr)
        if interrupted and not self.idle:
            print("edge-gemma: interrupted; the same command goes on from there.", file=sys.stderr)


def _record_of(output: Path) -> Path:
    return output.with_name(output.name + _ENDING)


def _read_record(output: Path) -> dict[str, Any] | None:
    """The record beside a result; None without a usable one."""
    try:
        record = json.loads(_record_of(output).read_text(encoding="utf-8"))
        usable_one = record["edge-gemma"] == _FORM["edge-gemma"] and record["version"] == _FORM["version"]
        return record if usable_one and record["recording"]["place"] and record["result"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_result(output: Path, record: dict[str, Any]) -> bool:
    """Whether a file is the result that its record tells of."""
    theirs = record["result"]
    return bool(output.stat().st_size == theirs["bytes"] and _digest(output) == theirs["digest"])


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
