"""Results of many recordings as records in a folder: `Results`. One record a recording, in part files that are written whole.

A folder of results has `part-*.jsonl` or `part-*.parquet`, whose records are those of recordings that were transcribed, and
`failed-*.jsonl` with the recordings that could not be. It may be any folder that fsspec writes to.
"""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import EdgeGemmaError, EdgeGemmaOSError
from ..installation import pip_line

__all__ = ["FORMATS", "Results", "filesystem"]

FORMATS = ("jsonl", "parquet")
_RECORDS, _SECONDS = 64, 10.0  # a part file is written when it has so many records, or after so long


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a path or URL, and the path in it.

    Raises EdgeGemmaError: "unsupported" without fsspec, "file" for a URL that it cannot open.
    """
    try:
        import fsspec  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        raise EdgeGemmaError(
            f"Archives on a cluster need Ray: `{pip_line('edge-gemma[ray]')}`.", "unsupported"
        ) from error
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError, OSError) as error:
        raise EdgeGemmaOSError(f"{url} cannot be opened: {str(error).rstrip('.')}.", "file") from error
    return fs, str(path)


class Results:
    """The records of a folder, and new ones. One process at a time writes.

    Attributes:
        done: what was transcribed, from the path of each recording to its key.
    """

    def __init__(self, folder: str, format: str) -> None:
        """Reads what is there. Raises EdgeGemmaError as `filesystem`, and "format" for a part that is none of ours."""
        self._fs, self._folder = filesystem(folder)
        self._format = format
        self._fs.makedirs(self._folder, exist_ok=True)
        self._parts: dict[str, list[tuple[str, str]]] = {}  # name -> (path, key) of its records
        self._fresh: list[dict[str, Any]] = []
        self._failures: list[dict[str, Any]] = []
        self._written = time.monotonic()
        for name in self._names("part-"):
            self._parts[name] = [(record["path"], record["key"]) for record in self._read(name)]
        self.done = {path: key for records in self._parts.values() for path, key in records}

    def keep(self, wanted: Mapping[str, str]) -> None:
        """Removes the records of recordings that have changed since, or were transcribed with other options: those whose key is
        not the `wanted` one of their path. Failures are forgotten, since they are tried again."""
        for name, records in list(self._parts.items()):
            if any(wanted.get(path, key) != key for path, key in records):
                left = [
                    record for record in self._read(name) if wanted.get(record["path"], record["key"]) == record["key"]
                ]
                self._write(name, left)
                self._parts[name] = [(record["path"], record["key"]) for record in left]
        self.done = {path: key for records in self._parts.values() for path, key in records}
        for name in self._names("failed-"):
            self._fs.rm_file(f"{self._folder}/{name}")

    def add(self, record: dict[str, Any]) -> bool:
        """Adds a record: of a failure if it has an "error", else of a transcript. Returns False where there is one already."""
        if record.get("error"):
            self._failures.append(record)
        elif record["path"] in self.done:
            return False
        else:
            self.done[record["path"]] = record["key"]
            self._fresh.append(record)
        if len(self._fresh) >= _RECORDS or time.monotonic() - self._written > _SECONDS:
            self.flush()
        return True

    def flush(self) -> None:
        """Writes what was added."""
        if self._fresh:
            name = f"part-{uuid.uuid4().hex[:12]}.{self._format}"
            self._write(name, self._fresh)
            self._parts[name] = [(record["path"], record["key"]) for record in self._fresh]
            self._fresh = []
        if self._failures:
            self._write("failed-recordings.jsonl", self._failures)
        self._written = time.monotonic()

    def _names(self, beginning: str) -> list[str]:
        self._fs.invalidate_cache()
        names = (str(path).rsplit("/", 1)[-1] for path in self._fs.ls(self._folder, detail=False))
        return sorted(name for name in names if name.startswith(beginning))

    def _read(self, name: str) -> list[dict[str, Any]]:
        with self._fs.open(f"{self._folder}/{name}", "rb") as file:
            data = file.read()
        try:
            if name.endswith(".jsonl"):
                return [json.loads(line) for line in data.splitlines()]
            import pyarrow.parquet  # type: ignore[import-not-found,unused-ignore]

            found: list[dict[str, Any]] = pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
            return found
        except (ValueError, KeyError) as error:
            raise EdgeGemmaError(f"{name} is no part of results: give another folder.", "format") from error

    def _write(self, name: str, records: Iterable[dict[str, Any]]) -> None:
        """Writes a file in one step: under another name first, which is no part."""
        data = _parquet(records) if name.endswith(".parquet") else b"".join(map(_line, records))
        temporary = f"{self._folder}/.{name}.new"
        with self._fs.open(temporary, "wb") as file:
            file.write(data)
        self._fs.mv(temporary, f"{self._folder}/{name}")


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _parquet(records: Iterable[dict[str, Any]]) -> bytes:
    """The records as a table whose columns are the same for all parts."""
    import pyarrow  # type: ignore[import-not-found,unused-ignore]
    import pyarrow.parquet

    text, number = pyarrow.string(), pyarrow.float64()
    names = ("text", "translation", "language", "retried", "problem", "start", "end", "avg_logprob", "no_speech_prob")
    numbers = ("start", "end", "avg_logprob", "no_speech_prob")
    segment = pyarrow.struct([(name, number if name in numbers else text) for name in names])
    columns = [(name, text) for name in ("path", "key", "language", "to", "text", "translation", "warning", "model")]
    schema = pyarrow.schema([*columns, ("duration", number), ("segments", pyarrow.list_(segment))])
    rows = []
    for record in records:
        segments = [{name: each.get(name) for name in names} for each in record["segments"]]
        rows.append({name: record.get(name) for name in schema.names} | {"segments": segments})
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), out)
    return out.getvalue()
