"""Image files of any format, mode and size: sound pixels are read whatever is wrong beside them, and what has no range is named."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from alphabar.data import Shape
from alphabar.data.decoding.pixels import to_pixels
from alphabar.data.folders.huggingface_files import stored_image
from alphabar.data.sources.folder import FolderSource
from alphabar.files.reading import MAX_PIXELS, image_suffixes, known_formats, open_image
from test_hostile_data import png_of

COLOUR = (200, 100, 50)
pytestmark = [  # which alphabar hides
    pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning"),
    pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning"),
]
RGB = Image.new("RGB", (60, 40), COLOUR)
SIDEWAYS = Image.Exif()
SIDEWAYS[0x0112] = 6


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(content, channels=3):
    with open_image(io.BytesIO(content)) as image:
        return to_pixels(image, Shape(channels, 8, 8))


def chunk(kind, content, checksum=None):
    sound = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + (checksum or sound)


def png_with(added, image=RGB, before=b"IDAT"):
    content = saved(image, "PNG")
    place = content.index(before) - 4
    return content[:place] + added + content[place:]


def jpeg_with(marker, content):
    plain = saved(RGB, "JPEG", quality=95)
    return plain[:2] + b"\xff" + marker + struct.pack(">H", len(content) + 2) + content + plain[2:]


def text_of_2_mb():
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "x" * 2_000_000, zip=True)
    return text


METADATA = {
    "png-text": lambda: saved(RGB, "PNG", pnginfo=text_of_2_mb()),
    "png-text-after": lambda: png_with(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(3_000_000))), before=b"IEND"),
    "png-exif": lambda: png_with(chunk(b"eXIf", b"MM")),
    "png-profile": lambda: png_with(chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(3_000_000)))),
    "png-profile-method": lambda: png_with(chunk(b"iCCP", b"x\0\5garbage")),
    "png-checksum": lambda: png_with(chunk(b"tEXt", b"a\0b", b"abcd")),
    "png-chromaticity": lambda: png_with(chunk(b"cHRM", b"a") + chunk(b"pHYs", b"a")),
    "jpeg-exif": lambda: saved(RGB, "JPEG", quality=95, exif=b"Exif\0\0II*\0" + b"\xff" * 50),
    "jpeg-profile": lambda: jpeg_with(b"\xe2", b"ICC_PROFILE\0"),
    "jpeg-jfif": lambda: jpeg_with(b"\xe0", b"JFIF\0"),
    "jpeg-adobe": lambda: jpeg_with(b"\xee", b"Adobe\0"),
    "webp-exif": lambda: saved(RGB, "WEBP", quality=95, exif=b"II*\0" + b"\xff" * 50, icc_profile=b"garbage"),
    "tiff-profile": lambda: saved(RGB, "TIFF", icc_profile=b"garbage"),
}


@pytest.mark.parametrize("make", METADATA.values(), ids=METADATA)
def test_sound_pixels_are_read_whatever_is_wrong_with_their_metadata(make):
    assert (pixels(make())[:, 4, 4].int() - torch.tensor(COLOUR)).abs().max() <= 1


def test_a_png_takes_no_more_memory_than_its_pixels_warrant(tmp_path):
    """Sparse files of 64 GB, which nobody could read: one that goes on behind its end, one that promises pixels without an end."""
    whole = saved(RGB, "PNG")
    for name, content in (("tail.png", whole), ("endless.png", whole[:33] + b"\xff\xff\xff\xf0IDAT")):
        (tmp_path / name).write_bytes(content)
        os.truncate(tmp_path / name, 2**36)
    with open_image(tmp_path / "tail.png") as image:
        assert (to_pixels(image, Shape(3, 8, 8))[:, 4, 4].int() - torch.tensor(COLOUR)).abs().max() <= 1
    with open_image(tmp_path / "endless.png") as image, pytest.raises(OSError, match=r"broken data stream|truncated"):
        image.load()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_what_is_wrong_with_pixels_is_still_an_error(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    with pytest.raises(OSError, match="truncated"):
        pixels(saved(noise, kind)[:-200])
    with pytest.raises(OSError, match=r"cannot identify the image|Truncated File Read"):
        pixels(saved(noise, kind)[:20])
    content = bytearray(saved(noise, "PNG"))
    content[content.index(b"IDAT") + 20] ^= 1
    with pytest.raises((OSError, SyntaxError)):
        pixels(bytes(content))


def half_and_half():
    return Image.fromarray(np.repeat([[255, 0]], 8, 0).repeat(4, 1).astype(np.uint8))


ORIENTED = {
    "png": lambda: saved(half_and_half(), "PNG", exif=SIDEWAYS),
    "png-imagemagick": lambda: png_with(raw_profile(), half_and_half()),
    "png-xmp": lambda: png_with(chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'), half_and_half()),
    "jpeg": lambda: saved(half_and_half(), "JPEG", quality=95, exif=SIDEWAYS),
    "tiff": lambda: saved(half_and_half(), "TIFF", tiffinfo={0x0112: 6}),
}


def raw_profile():
    exif = SIDEWAYS.tobytes()
    text = f"\nexif\n{len(exif):8}\n{exif.hex()}\n".encode()
    return chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))


@pytest.mark.parametrize("make", ORIENTED.values(), ids=ORIENTED)
def test_the_way_up_is_kept_and_taken_once(make):
    for mode in (None, "RGB"):
        top_bright = (pixels(make(), channels=1) > 127)[0].tolist()
        assert top_bright == [[True] * 8] * 4 + [[False] * 8] * 4
        cell = stored_image({"bytes": make(), "path": None}, [], mode)
        assert (to_pixels(cell, Shape(1, 8, 8)) > 127)[0].tolist() == top_bright


def flat(value, dtype):
    return Image.fromarray(np.full((40, 60), value, dtype))


def transparent_16_bits():
    return png_with(chunk(b"tRNS", struct.pack(">H", 20_000)), flat(20_000, np.uint16))


RANGES = {
    "16-bits": (lambda: saved(flat(40_000, np.uint16), "PNG"), 156),
    "16-bits-transparent": (transparent_16_bits, 255),
    "12-in-16": (lambda: saved(flat(2048, np.uint16), "PNG"), 128),
    "8-in-16": (lambda: saved(flat(200, np.uint16), "PNG"), 200),
    "12-bits-of-a-netpbm": (lambda: b"P5 60 40 4095\n" + np.full(2400, 2048, ">u2").tobytes(), 128),
    "tiff-maximum": (lambda: saved(flat(2048, np.uint16), "TIFF", tiffinfo={281: 8191}), 64),
    "tiff-maximum-that-is-none": (lambda: saved(flat(2048, np.uint16), "TIFF", tiffinfo={281: 9}), 128),
    "int32-of-8-bits": (lambda: saved(flat(200, np.int32), "TIFF"), 200),
    "int32-of-16-bits": (lambda: saved(flat(40_000, np.int32), "TIFF"), 156),
    "int32": (lambda: saved(flat(2**30, np.int32), "TIFF"), "integer pixels from 1073741824 to 1073741824: need 0 to 65535"),
    "negative": (lambda: saved(flat(-5, np.int32), "TIFF"), "integer pixels from -5 to -5: need 0 to 65535"),
    "float": (lambda: saved(flat(0.5, np.float32), "TIFF"), 128),
    "float-255": (lambda: saved(flat(200, np.float32), "TIFF"), "floating-point pixels from 200 to 200: need 0 to 1"),
    "nan": (lambda: saved(flat(np.nan, np.float32), "TIFF"), "floating-point pixels from nan to nan: need 0 to 1"),
}


@pytest.mark.parametrize(("make", "expected"), RANGES.values(), ids=RANGES)
def test_grey_of_more_than_8_bits_is_right_or_named(make, expected):
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=f"^{expected}$"):
            pixels(make())
    else:
        assert pixels(make()).unique().tolist() == [expected]


def test_colours_of_lab_become_grey():
    assert abs(int(to_pixels(Image.new("LAB", (8, 8), (150, 128, 128)), Shape(1, 4, 4)).unique()) - 141) <= 1


def test_every_suffix_of_pillow_is_used_and_large_images_are_opened(tmp_path):
    assert {".avif", ".jfif", ".ppm", ".pgm", ".jp2", ".tga", ".qoi", ".png", ".jpeg"} - {".avif"} <= set(image_suffixes())
    assert (".avif" in image_suffixes()) == ("AVIF" in known_formats())
    for number, suffix in enumerate(image_suffixes()):
        (tmp_path / f"{number}{suffix.upper() if number % 2 else suffix}").write_bytes(saved(RGB, "PNG"))
    (tmp_path / "x.heic").write_bytes(b"")
    source = FolderSource(str(tmp_path), 8, held_out=0)
    assert len(source.train()) == len(image_suffixes())
    assert source.remarks == {"not used": "1 .heic"}
    assert 13_500**2 > 180e6
    assert open_image(io.BytesIO(png_of(13_500, 13_500))).size == (13_500, 13_500)
    with pytest.raises(Image.DecompressionBombError, match=r"^more than 268 million pixels$"):
        open_image(io.BytesIO(png_of(2**14, MAX_PIXELS // 2**14 + 1)))
