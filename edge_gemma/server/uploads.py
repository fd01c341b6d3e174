"""Files that clients send as forms (multipart): within the bounds of bodies, and on disk beyond a megabyte."""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncIterator
from typing import IO, Any, cast

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from .bodies import Bodies, Fields
from .failures import RequestError

__all__ = ["Upload", "uploaded"]

_FIELDS, _FIELD = 64, 256 << 10  # fields beside the file, and bytes of each
_DAMAGED = "The form of the request is damaged."


class Upload:
    """A form with a file.

    Attributes:
        file: its content, at the beginning; it can be sought in.
        fields: the other fields, as texts; a field that was sent several times, or whose name ends in "[]", is a list, and
            has its name without "[]".
    """

    def __init__(self, form: FormData) -> None:
        """Raises RequestError for a form without exactly one file."""
        files = [item for _, item in form.multi_items() if isinstance(item, UploadFile)]
        if len(files) != 1 or not isinstance(form.get("file"), UploadFile):
            raise RequestError(400, "The request must have one recording, in the field file.", param="file")
        spooled: Any = files[0].file
        seekable = hasattr(spooled, "seekable")  # Python 3.10 lacks it
        self.file = cast("IO[bytes]", spooled if seekable else io.BytesIO(spooled.read()))
        values: dict[str, Any] = {}
        for name in form:
            texts = [item for item in form.getlist(name) if isinstance(item, str)]
            if name.endswith("[]") or len(texts) > 1:
                values[name.removesuffix("[]")] = texts
            elif texts and texts[0] != "":
                values[name] = texts[0]
        self.fields = Fields(values)

    def number(self, name: str, low: float, high: float) -> float | None:
        """A number within bounds; None for none. Raises RequestError."""
        text = self.fields.text(name)
        try:
            value = None if text is None else float(text)
        except ValueError:
            value = float("nan")
        return Fields({name: value}).number(name, low, high)

    def flag(self, name: str) -> bool:
        """True or false. Raises RequestError."""
        return (self.fields.text(name) or "false").lower() in ("true", "1", "yes", "on")


@contextlib.asynccontextmanager
async def uploaded(bodies: Bodies, request: Request) -> AsyncIterator[Upload]:
    """The form of a request; its file is closed afterwards. Raises RequestError; ClientDisconnect when the client leaves."""
    from python_multipart.exceptions import FormParserError

    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise RequestError(400, "The recording must be sent as a form, multipart/form-data.", param="file")
    async with contextlib.aclosing(bodies.pieces(request)) as pieces:
        parser = MultiPartParser(request.headers, pieces, max_files=1, max_fields=_FIELDS, max_part_size=_FIELD)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise RequestError(400, f"{_DAMAGED} {error.message}") from error
        except (FormParserError, ValueError, LookupError) as error:
            raise RequestError(400, _DAMAGED) from error
    try:
        yield Upload(form)
    finally:
        await form.close()
