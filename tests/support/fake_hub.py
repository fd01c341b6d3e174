"""A Hugging Face Hub on this machine: as much of it as downloading files takes, and faults to order.

    with FakeHub() as hub:
        hub.add("owner/name", {"model-Q4_0.gguf": data})
        hub.cut["model-Q4_0.gguf"] = [1000]         # the first request for it gets 1000 bytes and no more
        ...                                         # HF_ENDPOINT=hub.url
        hub.sent("model-Q4_0.gguf")                 # the Range of each request for it

Large files come the way of the real Hub: `resolve` redirects to a storage of another origin, which knows nothing of tokens.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_tests"


@dataclass
class Repository:
    """Files by name; `gated` ones give them to who has TOKEN, `private` ones do not even exist for others.

    `architecture` is what the Hub has read in one of the files.
    """

    files: dict[str, bytes]
    in_git: set[str]
    gated: bool = False
    private: bool = False
    architecture: str | None = None
    branches: set[str] = field(default_factory=lambda: {"main"})

    @property
    def commit(self) -> str:
        digest = hashlib.sha1()
        for name, data in sorted(self.files.items()):
            digest.update(name.encode() + data)
        return digest.hexdigest()

    def checksum(self, name: str) -> str:
        """The SHA-256 of a large file, git's SHA-1 of a small one."""
        data = self.files[name]
        if name in self.in_git:
            return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Request:
    """One that came in."""

    method: str
    path: str
    headers: dict[str, str]


class FakeHub:
    """The server, while its `with` block runs.

    Attributes:
        url: for HF_ENDPOINT.
        requests: all so far.
        cut: by the name of a file, after how many bytes its next answers break off.
        stall: by the name of a file, after how many bytes its answers wait until `released` is set; then `stalled` is.
        damaged: files of which one bit arrives wrong.
        whole: files that always come as a whole, whatever Range is asked for.
        down: a status that all answers have.
        babble: whether everything is answered with a page of HTML, as a hotel's network does.
        unsized: whether the listing leaves out the sizes of files, as a mirror may.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.cut: dict[str, list[int]] = {}
        self.stall: dict[str, int] = {}
        self.stalled, self.released = threading.Event(), threading.Event()
        self.damaged: set[str] = set()
        self.whole: set[str] = set()
        self.down = 0
        self.babble = False
        self.unsized = False
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self  # type: ignore[attr-defined]
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, name: str, files: dict[str, bytes], in_git: tuple[str, ...] = (), **options: Any) -> Repository:
        """Opens a repository; files of `in_git` are not in LFS."""
        self.repositories[name] = Repository(dict(files), set(in_git), **options)
        return self.repositories[name]

    def sent(self, name: str) -> list[str | None]:
        """The Range of every request for a file's bytes, None where it had none."""
        paths = {f"/storage/{r.checksum(name)}" for r in self.repositories.values() if name in r.files}
        return [r.headers.get("range") for r in self.requests if r.method == "GET" and urlsplit(r.path).path in paths]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *arguments: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that has gone is part of the tests
            super().handle_error(*arguments)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    @property
    def _hub(self) -> FakeHub:
        return self.server.hub  # type: ignore[attr-defined]

    def _answer(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._hub.requests.append(Request(self.command, self.path, headers))
        path = [unquote(part) for part in urlsplit(self.path).path.split("/")[1:]]
        if self._hub.babble:
            self._send(200, b"<html>Welcome to the hotel!</html>", {"Content-Type": "text/html"})
        elif self._hub.down:
            self._send(self._hub.down, b"", {})
        elif path[:2] == ["api", "models"]:
            revision = path[5] if path[4:5] == ["revision"] else "main"
            if repository := self._repository("/".join(path[2:4]), revision):
                self._listing("/".join(path[2:4]), repository)
        elif path[2:3] == ["resolve"]:
            if repository := self._repository("/".join(path[:2]), path[3]):
                self._resolve(repository, "/".join(path[4:]))
        elif path[0] == "storage":
            self._storage(path[1])
        else:
            self._error(404, "EntryNotFound")

    def _repository(self, name: str, revision: str) -> Repository | None:
        repository = self._hub.repositories.get(name)
        if repository is None or (repository.private and not self._logged_in()):
            self._error(401, "RepoNotFound")
        elif revision not in repository.branches | {repository.commit}:
            self._error(404, "RevisionNotFound")
        else:
            return repository
        return None

    def _logged_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _listing(self, name: str, repository: Repository) -> None:
        siblings = []
        for file, data in repository.files.items():
            size = None if self._hub.unsized else len(data)
            entry: dict[str, Any] = {"rfilename": file, "size": size, "blobId": repository.checksum(file)[:40]}
            if file not in repository.in_git:
                entry["lfs"] = {"sha256": repository.checksum(file), "size": len(data), "pointerSize": 135}
            siblings.append(entry)
        value = {"id": name, "modelId": name, "sha": repository.commit, "private": repository.private, "tags": []}
        if repository.architecture:
            value["gguf"] = {"total": 1, "architecture": repository.architecture, "context_length": 1024}
        self._send(200, json.dumps({**value, "siblings": siblings}).encode(), {"Content-Type": "application/json"})

    def _resolve(self, repository: Repository, file: str) -> None:
        if repository.gated and not self._logged_in():
            self._error(403 if "Authorization" in self.headers else 401, "GatedRepo")
        elif file not in repository.files:
            self._error(404, "EntryNotFound")
        else:
            checksum = repository.checksum(file)
            headers = {
                "Location": f"http://localhost:{self._hub.port}/storage/{checksum}?signature=1",
                "X-Repo-Commit": repository.commit,
                "X-Linked-ETag": f'"{checksum}"',
                "X-Linked-Size": str(len(repository.files[file])),
            }
            self._send(302, b"", headers)

    def _storage(self, checksum: str) -> None:
        hub = self._hub
        found = [(r, name) for r in hub.repositories.values() for name in r.files if r.checksum(name) == checksum]
        if not found or "Authorization" in self.headers:
            return self._send(400, b"", {})  # as storage does that is asked with a signature and a token at once
        repository, name = found[0]
        data = repository.files[name]
        if name in hub.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = 0
        if (wanted := self.headers.get("Range")) and name not in hub.whole:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", f'"{checksum}"')
        self.end_headers()
        if self.command == "HEAD":
            return None
        data = data[start:]
        if hub.cut.get(name):
            self.wfile.write(data[: hub.cut[name].pop(0)])
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif name in hub.stall and not hub.released.is_set():
            self.wfile.write(data[: hub.stall[name]])
            hub.stalled.set()
            hub.released.wait()
        else:
            try:
                self.wfile.write(data)
            except ConnectionError:  # who asked has gone
                self.close_connection = True
        return None

    def _error(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
