"""Errors as each interface writes them, and which of the package's errors is whose fault.

    OpenAI      {"error": {"message", "type", "param", "code"}}
    Anthropic   {"type": "error", "error": {"type", "message"}}
    Ollama      {"error": message}

Some clients speak the message to their user, so it is one plain sentence or two, without names of fields where that is
possible.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from ..errors import EdgeGemmaError

__all__ = ["BUSY_SECONDS", "RequestError", "error_body", "error_response", "request_error"]

BUSY_SECONDS = 5  # after which a refused client should try again

_OPENAI = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
_ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
# Codes of the package's errors that the request has caused.
_OF_REQUEST = {"argument", "format", "unsupported", "template", "tool", "context", "grammar", "file"}


class RequestError(Exception):
    """A request that is refused, or an answer that failed.

    Attributes:
        status: of HTTP.
        message: a sentence for people.
        param: the field that is wrong.
        code: a word for programs.
        retry_after: seconds after which the client should try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = BUSY_SECONDS if retry_after is None and status in (429, 503) else retry_after


def request_error(error: Exception) -> RequestError:
    """What a client is told of an exception. Details of a fault of the server stay here."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, EdgeGemmaError) and error.code in _OF_REQUEST:
        text = str(error)
        code = "context_length_exceeded" if error.code == "context" else None
        return RequestError(400, text[:1].upper() + text[1:], code=code)
    if isinstance(error, MemoryError) or (isinstance(error, EdgeGemmaError) and error.code == "memory"):
        return RequestError(503, "There is not enough memory for this request. Try again later.")
    return RequestError(500, "The server failed to answer.", code="internal_error")


def error_body(path: str, error: RequestError) -> dict[str, Any]:
    """The JSON of an error for the interface that a path belongs to."""
    if path.startswith("/api/"):
        return {"error": error.message}
    if path.startswith("/v1/messages"):
        kind = _ANTHROPIC.get(error.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": error.message}}
    kind = _OPENAI.get(error.status, "server_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def error_response(path: str, error: RequestError) -> JSONResponse:
    """The whole answer to a request that is refused."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(path, error), error.status, headers)
