"""`load_image`: the pixels of every kind of picture, and one clear error for what is none."""

from __future__ import annotations

import io
import struct
import sys
import threading
import warnings
import zlib
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from edge_gemma.errors import EdgeGemmaError, EdgeGemmaOSError
from edge_gemma.vision.images import is_image_name, load_image
from support.paths import DATA

PICTURES = DATA / "pictures"
# What Hugging Face's processor makes of the files of tests/data/pictures: SHA-256 of the RGB bytes.
WANTED = {
    "dot.png": "0772658271f9f07dda21f95857003c05c883c98618b6e2bf9e2457f0d30d1ad0",
    "gray.png": "e2fff14132db3285ee79e5b29dff472b744281117172707c991adc7e97da80a5",
    "palette.png": "31a88f077280af6e9f2bd09a390ea1d712d63f68d4d27670e99fb6489a2eb172",
    "palette_transparent.png": "73c6850c3de617f1b7c1f3582136b47269c2dc082cd1cb993b62e0e9c0ea925b",
    "rgba.png": "b29c00a7680af0b8f222b3b95f4892dd252997a4c1dd9d28a8aa608ccca810f4",
    "rotated.jpg": "bdf21e9a0bff55a8ea0b904a82118314a909c6e2032f0196996a97e5e72d15ab",
    "small.png": "6adb67d6281747811d77abfd5da18bf40a1096776b856cbb20a0b71242f58094",
}
FORMATS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("GIF", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("PPM", {}),
    ("TGA", {"compression": "tga_rle"}),
]


def noise(height: int = 60, width: int = 80) -> np.ndarray:
    """A picture without areas of one colour."""
    small = np.random.default_rng(5).integers(0, 256, (height // 4, width // 4, 3))
    return np.kron(small, np.ones((4, 4, 1))).astype(np.uint8)


def encoded(pixels: np.ndarray | PIL.Image.Image, form: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def refused(data: Any, code: str = "format", match: str = r"\.$") -> str:
    with pytest.raises(EdgeGemmaError, match=match) as caught:
        load_image(data)
    assert caught.value.code == code
    assert str(caught.value).endswith(".")
    return str(caught.value)


# ---- what the model sees -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WANTED)
def test_files_are_what_the_processor_makes_of_them(name: str) -> None:
    assert sha256(load_image(PICTURES / name).tobytes()).hexdigest() == WANTED[name]


def test_all_pictures_of_the_oracle(shared: Path) -> None:
    wanted = np.load(shared / "fixtures" / "vision" / "pixels.npz")
    files = sorted((shared / "fixtures" / "vision" / "images").iterdir())
    assert len(files) == 12
    for path in files:
        pixels = load_image(path)
        assert sha256(pixels.tobytes()).hexdigest() == str(wanted[f"{path.stem}_rgb_sha256"]), path
        if f"{path.stem}_rgb" in wanted:
            assert np.array_equal(pixels, wanted[f"{path.stem}_rgb"])


def test_every_way_to_give_a_picture(tmp_path: Path) -> None:
    pixels = noise()
    data = encoded(pixels, "PNG")
    path = tmp_path / "a picture.png"
    path.write_bytes(data)
    with path.open("rb") as file, PIL.Image.open(path) as image:
        ways = [path, str(path), path.as_uri(), data, bytearray(data), memoryview(data), file, image, pixels]
        for way in [*ways, PIL.Image.fromarray(pixels), io.BytesIO(data)]:
            assert np.array_equal(load_image(way), pixels), type(way)
        assert not file.closed
    result = load_image(pixels)
    assert result.flags.c_contiguous and not np.shares_memory(result, pixels)


def test_arrays_of_all_types() -> None:
    grey = noise()[:, :, 0]
    rgb = np.repeat(grey[:, :, None], 3, axis=2)
    for array in (
        grey,
        grey[:, :, None],
        grey.astype(np.uint16) * 257,
        grey / 255,
        (grey / 255).astype(np.float32),
        grey.astype(int),
    ):
        assert np.array_equal(load_image(array), rgb), array.dtype
    assert np.array_equal(load_image(grey > 100), np.where(rgb > 100, 255, 0))
    assert np.array_equal(load_image(noise()[::2, ::-3]), noise()[::2, ::-3])
    half = np.dstack([noise(), np.full((60, 80), 128, np.uint8)])
    assert np.abs(load_image(half).astype(int) - (noise().astype(int) + 255) / 2).max() <= 1
    clear = np.dstack([grey, np.zeros_like(grey)])
    assert (load_image(clear) == 255).all()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 40, 50), np.uint8), r"\(3, 40, 50\).*transpose"),
        (np.zeros((2, 40, 50, 3), np.uint8), "shape"),
        (np.zeros(7, np.uint8), "shape"),
        (np.zeros((0, 5, 3), np.uint8), "empty"),
        (np.full((4, 4, 3), 2.0), "within 0 and 1"),
        (np.full((4, 4, 3), np.nan), "within 0 and 1"),
        (np.full((4, 4, 3), -1), "within 0 and 255"),
        (np.full((4, 4, 3), "x"), "numbers"),
    ],
)
def test_arrays_that_are_no_pictures(array: np.ndarray, words: str) -> None:
    refused(array, "argument", words)


def test_other_things_are_refused() -> None:
    for thing in (None, 3, [1, 2], {"a": 1}):
        refused(thing, "argument", "give a path")


def test_orientation() -> None:
    """All eight orientations of EXIF give the picture that the camera saw."""
    pixels = noise()
    back = {1: 0, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # of PIL.Image.Transpose, which undo the orientation
    for orientation, transpose in back.items():
        image = PIL.Image.fromarray(pixels)
        stored = image if orientation == 1 else image.transpose(PIL.Image.Transpose(transpose))
        if orientation in (6, 8):
            stored = image.transpose(PIL.Image.Transpose(2 if orientation == 6 else 4))
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        for form in ("PNG", "TIFF"):
            assert np.array_equal(load_image(encoded(stored, form, exif=exif)), pixels), (orientation, form)


def test_a_damaged_exif_is_no_damage_of_the_picture() -> None:
    pixels = noise()
    data = encoded(pixels, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own
        assert np.array_equal(load_image(data), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_modes(mode: str) -> None:
    image = PIL.Image.fromarray(noise()).convert("RGB" if mode == "LA" else mode)
    image = image.convert("L").convert("LA") if mode == "LA" else image
    assert np.array_equal(load_image(image), np.array(image.convert("RGB")))


def test_deep_grey() -> None:
    values = np.linspace(0, 65535, 300).astype(np.uint16).reshape(20, 15)
    wanted = np.rint(values / 257)[:, :, None].repeat(3, axis=2)
    for form in ("PNG", "TIFF"):
        assert np.array_equal(load_image(encoded(PIL.Image.fromarray(values), form)), wanted)
    assert np.array_equal(load_image(PIL.Image.fromarray(values.astype(np.int32))), wanted)
    floats = PIL.Image.fromarray((values / 65535).astype(np.float32))
    assert np.abs(load_image(encoded(floats, "TIFF")).astype(int) - wanted).max() <= 1


def test_cmyk_of_adobe_is_turned_round() -> None:
    """Adobe stores CMYK in JPEG with 255 for no ink, and says so in a marker; Pillow undoes it."""
    image = PIL.Image.new("CMYK", (32, 32), (255, 0, 0, 0))
    data = encoded(image, "JPEG", quality=95)
    pixels = load_image(data)
    assert np.array_equal(pixels, np.array(PIL.Image.open(io.BytesIO(data)).convert("RGB")))
    assert pixels[5, 5, 0] < 20 and pixels[5, 5, 1] > 200
    at = data.find(b"Adobe")
    if at > 0:
        without = data.replace(b"\xff\xee", b"\xff\xef", 1)  # another application's marker
        assert np.array_equal(load_image(without), np.array(PIL.Image.open(io.BytesIO(without)).convert("RGB")))


def test_transparent_colour_of_a_png() -> None:
    pixels = noise()
    pixels[:10] = (1, 2, 3)
    found = load_image(encoded(pixels, "PNG", transparency=(1, 2, 3)))
    assert (found[:10] == 255).all() and np.array_equal(found[10:], pixels[10:])


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_picture_of_several(form: str) -> None:
    first, second = (PIL.Image.new("RGB", (24, 16), colour) for colour in ("red", "blue"))
    data = encoded(first, form, save_all=True, append_images=[second])
    pixels = load_image(data)
    assert pixels.shape == (16, 24, 3) and pixels[..., 0].min() > 245 and pixels[..., 2].max() < 10


def test_heic() -> None:
    heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif")
    buffer = io.BytesIO()
    heif.from_pillow(PIL.Image.fromarray(noise())).save(buffer, quality=100)
    assert np.abs(load_image(buffer.getvalue()).astype(int) - noise()).mean() < 8
    refused(buffer.getvalue()[:-300])
    assert "HEIF" not in PIL.Image.OPEN


def test_heic_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    refused(b"\0\0\0\x18ftypheic" + bytes(300), "unsupported", r"pip install.*edge-gemma\[heif\].*pillow-heif")


# ---- hostile files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "options"), FORMATS, ids=lambda value: str(value))
def test_a_file_that_is_cut_short(form: str, options: dict[str, Any]) -> None:
    """It is an error, or the whole picture where only its end mark is missing."""
    data = encoded(noise(), form, **options)
    whole = load_image(data)
    cuts = {*range(1, 40, 3), *(len(data) * part // 10 for part in range(1, 10)), len(data) - 10, len(data) - 1}
    refused_cuts = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for cut in sorted(cuts):
            try:
                assert np.array_equal(load_image(data[:cut]), whole), cut
            except EdgeGemmaError as error:
                refused_cuts += 1
                assert error.code == "format"
    assert refused_cuts > 0.8 * len(cuts)


def with_size(png: bytes, width: int, height: int) -> bytes:
    """A PNG whose header states another size, with a right checksum."""
    head = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + head + struct.pack(">I", zlib.crc32(head)) + png[33:]


def interlaced_png(pixels: np.ndarray) -> bytes:
    """A PNG in seven passes, which Pillow does not write."""
    png = encoded(pixels, "PNG")
    starts = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = [b"\0" + row.tobytes() for x, y, dx, dy in starts for row in pixels[y::dy, x::dx]]
    head = png[12:28] + b"\x01"
    packed = b"IDAT" + zlib.compress(b"".join(rows))
    chunks = [
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
        for part in (head, packed, b"IEND")
    ]
    return png[:8] + b"".join(chunks)


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_that_lies(interlaced: bool) -> None:
    pixels = noise()
    pixels[-8:] = 50
    png = interlaced_png(pixels) if interlaced else encoded(pixels, "PNG")
    height, width = pixels.shape[:2]
    assert np.array_equal(load_image(with_size(png, width, height)), pixels)
    for size in ((width, height + 1), (width, 2 * height), (0, height), (width, 0), (2 * width, height)):
        refused(with_size(png, *size))
    refused(with_size(png, 2**31 - 1, 2**31 - 1), match="MAX_IMAGE_PIXELS")


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"quality": 95, "subsampling": 0}]
)
@pytest.mark.parametrize("flat", [False, True])
def test_a_jpeg_that_lies(options: dict[str, Any], flat: bool) -> None:
    pixels = noise()
    if flat:
        pixels[-24:] = 200
    data = encoded(pixels, "JPEG", **options)
    assert load_image(data).shape == (60, 80, 3)
    at = data.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0") + 5
    for height, width in ((128, 80), (6000, 80), (60, 160), (0, 80)):
        refused(data[:at] + struct.pack(">HH", height, width) + data[at + 4 :])
    refused(data[:at] + struct.pack(">HH", 65000, 65000) + data[at + 4 :], match="MAX_IMAGE_PIXELS")
    if not options.get("progressive"):  # whose first scans are a whole picture
        refused(data[: len(data) * 2 // 3] + b"\xff\xd9", match="missing")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_one_colour_is_no_damage(mode: str) -> None:
    image = PIL.Image.new(mode, (133, 77))
    assert load_image(encoded(image, "PNG")).shape == (77, 133, 3)
    if mode in ("L", "RGB"):
        for progressive in (False, True):
            assert load_image(encoded(image, "JPEG", progressive=progressive)).shape == (77, 133, 3)


def test_a_gif_and_a_webp_that_lie() -> None:
    gif = encoded(noise(), "GIF")
    at = gif.index(b"\x2c" + struct.pack("<HHHH", 0, 0, 80, 60)) + 5
    refused(gif[:at] + struct.pack("<HH", 80, 120) + gif[at + 4 :])
    refused(gif[:6] + struct.pack("<HH", 65000, 65000) + gif[10:])
    webp = encoded(noise(), "WEBP")
    at = webp.index(b"\x9d\x01\x2a") + 3
    for size in ((80, 120), (16383, 16383), (0, 0)):
        refused(webp[:at] + struct.pack("<HH", *size) + webp[at + 4 :])


def test_sizes_at_the_limits() -> None:
    assert load_image(encoded(PIL.Image.new("L", (60000, 1)), "PNG")).shape == (1, 60000, 3)
    assert load_image(encoded(PIL.Image.new("L", (1, 1)), "PNG")).shape == (1, 1, 3)
    refused(PIL.Image.new("RGB", (0, 5)), match="empty")
    limit = PIL.Image.MAX_IMAGE_PIXELS
    bomb = with_size(encoded(PIL.Image.new("1", (8, 8)), "PNG"), 10000, 10000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(bomb, match="10000 x 10000 pixels")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(bomb, match="more pixels")
    assert limit == PIL.Image.MAX_IMAGE_PIXELS


def test_what_is_no_picture(tmp_path: Path) -> None:
    assert str(tmp_path) in refused(tmp_path, "file", "directory")
    assert "none.png" in refused(tmp_path / "none.png", "file", "No such file")
    text = tmp_path / "notes.png"
    text.write_text("These are notes.\n")
    assert "notes.png" in refused(text, match="a text")
    text.write_bytes(b"")
    refused(text, match="notes.png is empty")
    text.write_bytes(bytes(range(256)) * 4)
    refused(text, match="notes.png")
    text.write_bytes(b"\0\0\0\x18ftypmp42" + bytes(300))
    refused(text, match="give it as a video")
    text.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    refused(text, match="a text")
    refused("a\0b.png", "file")
    refused("", "argument", "empty")
    refused("https://example.org/cat.png", "file", "download it first")
    with pytest.raises(EdgeGemmaOSError, match=r"cannot open .*none\.png"):
        load_image(tmp_path / "none.png")


def test_file_objects_that_fail() -> None:
    class Broken(io.RawIOBase):
        name = "pipe"

        def read(self, size: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    refused(Broken(), "file", "cannot read pipe: Input/output error")
    refused(io.StringIO("text"), "argument", "binary")


def test_threads_share_a_picture() -> None:
    """A PIL image is decoded at its first use, also where several threads come at once."""
    pixels = noise(400, 400)
    data = encoded(pixels, "PNG")
    for _ in range(5):
        image = PIL.Image.open(io.BytesIO(data))
        found: list[bool] = []
        start = threading.Barrier(4)

        def work(image: PIL.Image.Image = image, found: list[bool] = found, start: threading.Barrier = start) -> None:
            start.wait()
            found.append(np.array_equal(load_image(image), pixels) and np.array_equal(load_image(data), pixels))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [True] * 4


def test_names_of_pictures() -> None:
    assert (
        is_image_name("a/b.JPG") and is_image_name("x.heic") and not is_image_name("x.mp4") and not is_image_name("jpg")
    )
