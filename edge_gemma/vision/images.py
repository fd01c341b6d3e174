"""`load_image`: an (h, w, 3) uint8 array of anything that is a picture: files, bytes, PIL images, arrays.

Owns what becomes of the orientation in EXIF, palettes, transparency, grey values and deep colours, and the sentences about
what cannot be read. Pillow decodes; pillow-heif decodes HEIC. Files are not trusted: only formats that Pillow decodes by itself
are read (for EPS it would start another program), and a picture that is cut short or damaged is an error.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import threading
from typing import IO, Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from ..audio.kinds import HEAD, identify
from ..audio.source import local_path
from ..errors import EdgeGemmaError, EdgeGemmaMemoryError, EdgeGemmaOSError, EdgeGemmaValueError
from ..installation import pip_line
from .completeness import is_complete

__all__ = ["FORMATS", "is_image_name", "load_image", "pixel_array"]

FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "ICO", "JPEG2000", "QOI")
"""The formats that are read, by Pillow's names; HEIC comes in addition. An installed Pillow may lack some of them."""

_ENDINGS = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .gif .webp .avif .heic .heif .hif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm "
    ".tga .ico .jp2 .j2k .qoi".split()
)
_HEIF = re.compile(rb"....ftyp(hei[cxms]|hev[cxms]|m[is]f1)", re.DOTALL)
_LARGEST_STREAM = 1 << 29  # bytes that are read from a pipe before it counts as endless
# Two threads may be given the same PIL image, whose file is decoded at its first use.
_decoding = threading.Lock()


def load_image(image: Any) -> NDArray[np.uint8]:
    """The pixels of a picture, as the model sees them.

    Args:
        image: one of

            - a path or a file:// URL,
            - `bytes` with the content of such a file,
            - a binary file object, which is read from its position and stays open,
            - a PIL image,
            - an array (h, w), (h, w, 1), (h, w, 2), (h, w, 3) or (h, w, 4): grey, grey and alpha, RGB (not BGR as OpenCV
              has it), RGB and alpha. uint8; uint16, whose white is 65535; bool; other whole numbers from 0 to 255; or
              floats from 0 to 1. A tensor that NumPy can convert is an array.

    A file is turned as its EXIF orientation says. Transparent parts are laid on white. Of an animation the first picture
    counts, of a file with several pages the first page. Colour profiles are not applied.

    Returns:
        A new (h, w, 3) uint8 array of RGB values.

    Raises:
        EdgeGemmaOSError: "file" for what cannot be opened or read.
        EdgeGemmaValueError: "format" for what is no picture, is damaged, cut short or empty, or has more pixels than
            `PIL.Image.MAX_IMAGE_PIXELS`; "unsupported" for HEIC without pillow-heif; "argument" for something else.
        EdgeGemmaMemoryError: "memory" for a picture that is too large for this machine.

    Safe to call from several threads.
    """
    if isinstance(image, PIL.Image.Image):
        name = getattr(image, "filename", "") or "the PIL image"
        return _guarded(name, lambda: _converted_picture(image, name))
    if isinstance(image, (str, os.PathLike)):
        name = local_path(image, "picture")
        with _open_path(name) as file:
            return _load_file(file, name)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _load_file(io.BytesIO(bytes(image)), f"the picture of {len(image)} bytes")
    if hasattr(image, "read"):
        given = getattr(image, "name", None)
        name = given if isinstance(given, str) else "the file object"
        return _load_file(io.BytesIO(_read_all(image, name)), name)
    if isinstance(image, np.ndarray) or hasattr(image, "__array__"):
        return pixel_array(np.asarray(image))
    raise EdgeGemmaValueError(
        f"a picture cannot come from a {type(image).__name__}: give a path, bytes, a PIL image or an array.", "argument"
    )


def is_image_name(name: str) -> bool:
    """Whether a file's name ends as those of pictures do."""
    return os.path.splitext(name)[1].lower() in _ENDINGS


def pixel_array(array: NDArray[Any], name: str = "the array") -> NDArray[np.uint8]:
    """A new (h, w, 3) uint8 array of an array as `load_image` takes it. `name`: what errors call it.

    Raises EdgeGemmaValueError "argument".
    """
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4):
        planes = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        advice = " The channels come last: array.transpose(1, 2, 0)." if planes else ""
        raise EdgeGemmaValueError(
            f"{name} has the shape {array.shape}; a picture is (h, w), (h, w, 3) or (h, w, 4).{advice}", "argument"
        )
    if not array.size:
        raise EdgeGemmaValueError(f"{name} is empty: it has {array.shape[1]} x {array.shape[0]} pixels.", "argument")
    levels = _levels(array, name)
    if levels.shape[2] in (2, 4):
        whole = levels if levels.shape[2] == 4 else levels[:, :, [0, 0, 0, 1]]
        return _on_white(PIL.Image.fromarray(np.ascontiguousarray(whole)))
    return np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:2], 3))).copy()


# ---- levels and colours ----------------------------------------------------------------------------------------------


def _levels(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Values of any type as levels from 0 to 255."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if array.dtype.kind not in "iuf":
        raise EdgeGemmaValueError(f"{name} has values of type {array.dtype}; a picture has numbers.", "argument")
    low, high = float(array.min()), float(array.max())
    top = 1 if array.dtype.kind == "f" else 255
    if not (low >= 0 and high <= top):  # also refuses nan
        raise EdgeGemmaValueError(
            f"{name} has {array.dtype} values from {low:g} to {high:g}; they must lie within 0 and {top}.", "argument"
        )
    return np.rint(array * 255).astype(np.uint8) if top == 1 else array.astype(np.uint8)


def _converted_picture(image: PIL.Image.Image, name: str) -> NDArray[np.uint8]:
    """The pixels of a PIL image."""
    with _decoding:
        image.load()
    if not image.width or not image.height:
        raise EdgeGemmaValueError(f"{name} is empty: it has {image.width} x {image.height} pixels.", "format")
    # Damaged EXIF is no damage of the picture, which stays as it lies then.
    with contextlib.suppress(Exception):
        image = PIL.ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return pixel_array(_deep_grey(image), name)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _on_white(image)
    return np.array(image.convert("RGB"))


def _deep_grey(image: PIL.Image.Image) -> NDArray[Any]:
    """The values of a grey picture with more than 8 bits, of modes I, I;16 and F. Pillow would cut them off at 255."""
    array = np.asarray(image)
    if array.dtype.kind == "f":
        return array
    if array.size and (array.min() < 0 or array.max() > 65535):
        return array.astype(np.float64) / np.iinfo(np.int32).max
    return array.astype(np.uint16)


def _on_white(image: PIL.Image.Image) -> NDArray[np.uint8]:
    """The pixels of a transparent picture over white, as the models' own preprocessing has them."""
    white = PIL.Image.new("RGBA", image.size, (255, 255, 255, 255))
    return np.array(PIL.Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))


# ---- files -----------------------------------------------------------------------------------------------------------


def _open_path(name: str) -> IO[bytes]:
    """Opens a file. What cannot go back to its beginning, such as a pipe, is read to its end."""
    if os.path.isdir(name):
        raise EdgeGemmaOSError(f"{name} is a directory: give a picture.", "file")
    try:
        file = open(name, "rb")  # noqa: SIM115 -- the caller closes it
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise EdgeGemmaOSError(f"cannot open {name}: {getattr(error, 'strerror', None) or error}.", "file") from error
    if os.path.isfile(name):
        return file
    with file:
        return io.BytesIO(_read_all(file, name))


def _read_all(file: Any, name: str) -> bytes:
    """The rest of a file object."""
    try:
        data = file.read(_LARGEST_STREAM + 1)
    except OSError as error:
        raise EdgeGemmaOSError(f"cannot read {name}: {error.strerror or error}.", "file") from error
    except Exception as error:  # the object is the caller's
        raise EdgeGemmaOSError(f"cannot read {name}: {error}.", "file") from error
    if not isinstance(data, bytes):
        raise EdgeGemmaValueError(f"{name} was opened as text; a picture is read in binary.", "argument")
    if len(data) > _LARGEST_STREAM:
        raise EdgeGemmaValueError(f"{name} does not end within {_LARGEST_STREAM >> 20} MB.", "format")
    return data


def _load_file(file: IO[bytes], name: str) -> NDArray[np.uint8]:
    """The pixels of a file that can seek and stands at its beginning."""
    try:
        head = file.read(HEAD)
        file.seek(0)
    except OSError as error:
        raise EdgeGemmaOSError(f"cannot read {name}: {error.strerror or error}.", "file") from error
    if not head:
        raise EdgeGemmaValueError(f"{name} is empty.", "format")
    if _HEIF.match(head):
        return _guarded(name, lambda: _converted_picture(_open_heif(file, name), name))
    return _guarded(name, lambda: _converted_picture(_complete(_opened(file, name, head), file, name), name))


def _complete(image: PIL.Image.Image, file: IO[bytes], name: str) -> PIL.Image.Image:
    """The decoded picture itself. Raises EdgeGemmaValueError "format" where a part of it is missing."""
    image.load()
    if not is_complete(image, file):
        raise EdgeGemmaValueError(f"{name} is damaged or cut short: a part of the picture is missing.", "format")
    return image


def _opened(file: IO[bytes], name: str, head: bytes) -> PIL.Image.Image:
    """The picture of a file, which is not decoded."""
    PIL.Image.init()  # knows all formats afterwards
    try:
        image = PIL.Image.open(file, formats=[form for form in FORMATS if form in PIL.Image.OPEN])
    except PIL.UnidentifiedImageError:
        raise EdgeGemmaValueError(_unknown(name, head), "format") from None
    limit = PIL.Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise EdgeGemmaValueError(
            f"{name} has {image.width} x {image.height} pixels, more than the {limit / 1e6:.0f} million that Pillow takes for "
            "safe: make it smaller (in Python: PIL.Image.MAX_IMAGE_PIXELS is the limit).",
            "format",
        )
    return image


def _open_heif(file: IO[bytes], name: str) -> PIL.Image.Image:
    """The picture of a HEIC file."""
    try:
        pillow_heif = importlib.import_module("pillow_heif")
    except ImportError:
        raise EdgeGemmaValueError(
            f"{name} is a HEIC picture, which needs the package pillow-heif: `{pip_line('edge-gemma[heif]')}` or "
            f"`{pip_line('pillow-heif')}` gets it.",
            "unsupported",
        ) from None
    image: PIL.Image.Image = pillow_heif.open_heif(file, convert_hdr_to_8bit=True).to_pillow()
    return image


def _unknown(name: str, head: bytes) -> str:
    """The sentence about a file that Pillow does not know."""
    kind = identify(lambda count: head[:count])
    if kind is None or kind.name == "an image":
        known = "JPEG, PNG, WebP, GIF, AVIF, HEIC, BMP, TIFF"
        return f"{name} is damaged, or no picture of a known format ({known}, ...)."
    if kind.reader == "media":
        return f"{name} is no picture but {kind.name}: give it as a video."
    return f"{name} is no picture but {kind.name}."


def _guarded(name: str, load: Any) -> NDArray[np.uint8]:
    """The result of `load`. Whatever Pillow and its codecs raise for damaged data becomes an error that names the file."""
    try:
        pixels: NDArray[np.uint8] = load()
        return pixels
    except EdgeGemmaError:
        raise
    except MemoryError as error:
        raise EdgeGemmaMemoryError(f"{name} is too large: there is not enough memory for it.", "memory") from error
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise EdgeGemmaValueError(
            f"{name} has more pixels than Pillow takes for safe: make it smaller (in Python: PIL.Image.MAX_IMAGE_PIXELS is "
            "the limit).",
            "format",
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise EdgeGemmaValueError(f"{name} cannot be read ({reason}): it is damaged or cut short.", "format") from error
