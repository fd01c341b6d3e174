"""A speech server as a voice: `POST /v1/audio/speech`, as OpenAI, Kokoro, Piper's servers and others have it.

The text leaves this program only for the address that the user has given; a redirection to another one is an error.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.parse
from collections.abc import Callable, Generator

from ..interface import EdgeGemmaVoiceError
from .sound import Pcm, pieces

__all__ = ["SpeechServer"]

_PATH = "/audio/speech"
_RATE = 24000  # of the interface's raw sound
_PATIENCE = 30.0  # seconds without an answer after which the server has failed
_MOST_OF_AN_ERROR = 4096  # bytes


class SpeechServer:
    """Asks a server for the sound of each text. A `Voice`."""

    sample_rate = _RATE

    def __init__(
        self,
        url: str,
        voice: str | None = None,
        model: str | None = None,
        key: str | None = None,
        patience: float = _PATIENCE,
    ) -> None:
        """Connects with the first text.

        Args:
            url: of the server, as "http://host:8000", with or without "/v1" or "/v1/audio/speech".
            voice, model: their names on the server; None for "alloy" and "tts-1", which most servers take for their own.
            key: sent as a bearer token.
            patience: seconds that the server may take for its next byte.

        Raises:
            EdgeGemmaVoiceError: the address is not one of a server.
        """
        parts = urllib.parse.urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise EdgeGemmaVoiceError(f"The address of the voice, {url}, cannot be read: {error}.") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise EdgeGemmaVoiceError(f"The address of the voice, {url}, must begin with http:// or https://.")
        path = parts.path.rstrip("/")
        if not path.endswith(_PATH):
            path = (path or "/v1") + _PATH
        self._name = f"{parts.hostname}{f':{port}' if port else ''}"
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, port
        self._path = path + (f"?{parts.query}" if parts.query else "")
        self._voice, self._model, self._key, self._patience = voice or "alloy", model or "tts-1", key, patience

    def speak(self, text: str, language: str | None = None) -> Generator[Pcm, None, None]:
        """As `Voice.speak`. The server finds out the language by itself."""
        request = {"model": self._model, "input": text, "voice": self._voice, "response_format": "pcm"}
        headers = {
            "Content-Type": "application/json",
            **({"Authorization": f"Bearer {self._key}"} if self._key else {}),
        }
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        with contextlib.closing(kind(self._host, self._port, timeout=self._patience)) as connection:
            try:
                connection.request("POST", self._path, json.dumps(request).encode(), headers)
                response = connection.getresponse()
                if response.status != 200:
                    reason = _reason(response.read(_MOST_OF_AN_ERROR)) or response.reason
                    raise EdgeGemmaVoiceError(f"The speech server {self._name} answered {response.status}: {reason}.")
                name = f"The speech server {self._name}"
                yield from pieces(_Body(response, name, self._failure), name, _RATE, self.sample_rate)
            except (OSError, http.client.HTTPException) as error:
                raise self._failure(error) from error

    def _failure(self, error: Exception) -> EdgeGemmaVoiceError:
        if isinstance(error, TimeoutError):
            return EdgeGemmaVoiceError(
                f"The speech server {self._name} has not answered for {self._patience:g} seconds."
            )
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        return EdgeGemmaVoiceError(f"The speech server {self._name} cannot be used: {reason.rstrip('.')}.")

    def close(self) -> None:
        """Does nothing: a connection lives no longer than its text."""


class _Body:
    """The body of a response."""

    def __init__(
        self, response: http.client.HTTPResponse, name: str, failure: Callable[[Exception], EdgeGemmaVoiceError]
    ) -> None:
        """`failure`: makes the error for one of the connection."""
        self._response, self._failure = response, failure
        kind = response.headers.get_content_type()
        if kind in (
            "application/json",
            "text/html",
            "text/plain",
            "audio/mpeg",
            "audio/ogg",
            "audio/aac",
            "audio/flac",
        ):
            raise EdgeGemmaVoiceError(f"{name} answered {kind}; raw samples were asked for.")

    def read1(self, n: int, /) -> bytes:
        """Sound. Raises EdgeGemmaVoiceError when the connection fails."""
        try:
            return self._response.read1(n)
        except (OSError, http.client.HTTPException) as error:
            raise self._failure(error) from error


def _reason(body: bytes) -> str:
    """What the body of an error says."""
    text = body.decode("utf-8", "replace").strip()
    with contextlib.suppress(ValueError, AttributeError):
        found = json.loads(text)
        error = found.get("error", found)
        text = str(error.get("message") or error.get("detail") or text) if isinstance(error, dict) else str(error)
    return " ".join(text.split())[:200].rstrip(".")
