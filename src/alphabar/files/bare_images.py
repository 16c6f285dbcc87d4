"""PNG and JPEG files without their metadata, for a damaged part of which Pillow refuses the whole image."""

import struct
import zlib
from collections.abc import Iterator

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_START = struct.Struct(">8s4x4sIIBB")  # signature, kind of the first chunk, width, height, bits, kind of colours
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by kind of colours
JPEG_SIGNATURE = b"\xff\xd8\xff"
# Text that can say which way up an image is, as ImageMagick and Adobe write it.
ORIENTATIONS = (b"Raw profile type exif", b"XML:com.adobe.xmp")
MAX_TEXT = 2**18  # bytes, unpacked
ROOM = 2**25  # bytes of a PNG besides its pixels


def most_png_bytes(start: bytes, max_pixels: int) -> int:
    """Returns how many bytes of a PNG are read at most: twice those of its pixels, and `ROOM` for everything else.

    start: the first bytes, at least PNG_START.size. max_pixels: of images with more only `ROOM` is read, which tells their size.
    """
    if len(start) < PNG_START.size:
        return ROOM
    _, _, width, height, bits, colours = PNG_START.unpack(start[: PNG_START.size])
    row = 1 + width * bits * PNG_CHANNELS.get(colours, 1) // 8
    return ROOM + (2 * height * row if width * height <= max_pixels else 0)


def bare_png(content: bytes) -> bytes:
    """Returns a PNG with its pixels, transparency and orientation alone, no checksum of which is wrong but in the pixels.

    Text, colour profiles, times and the other images of an animation are left out. What is damaged otherwise stays so.
    """
    return b"".join((PNG_SIGNATURE, *_kept_chunks(memoryview(content))))


def bare_jpeg(content: bytes) -> bytes:
    """Returns a JPEG with its pixels, their colour space and its EXIF alone."""
    return b"".join((content[:2], *_kept_segments(content)))


def _kept_segments(content: bytes) -> Iterator[bytes]:
    """Yields the segments that are kept, and from the first one that is none, or holds pixels, all that follows."""
    start = 2
    while content[start : start + 1] == b"\xff" and (marker := content[start + 1 : start + 2]) != b"\xda":
        end = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        segment = content[start:end]
        is_colour = marker == b"\xee" and len(segment) >= 16  # Adobe's, with whether there are three or four colours
        is_application = b"\xe0" <= marker <= b"\xef" or marker == b"\xfe"  # or a comment
        if not is_application or is_colour or segment[4:10] == b"Exif\0\0":
            yield segment
        start = max(end, start + 2)
    yield content[start:]


def _kept_chunks(content: memoryview) -> Iterator[memoryview]:
    """Yields the chunks that are kept, whole: length, kind, data and checksum; what follows a cut-off one is part of it."""
    start = len(PNG_SIGNATURE)
    while start < len(content):
        length, kind = struct.unpack(">I4s", content[start : start + 8]) if start + 8 <= len(content) else (0, b"")
        if not kind.isalpha():  # no chunk begins here
            yield content[start:]
            return
        end = start + 12 + length
        is_critical = not kind[0] & 0x20  # its first letter is a capital one
        if is_critical or (end <= len(content) and _is_sound(kind, content[start:end])):
            yield content[start:end]
        if kind == b"IEND":
            return
        start = end


def _is_sound(kind: bytes, chunk: memoryview) -> bool:
    """Returns whether a chunk that is not critical says something of the pixels, and has the checksum that it should have."""
    if kind not in (b"tRNS", b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
        return False
    if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
        return False
    return kind in (b"tRNS", b"eXIf") or _is_orientation(kind, bytes(chunk[8:-4][:MAX_TEXT]))


def _is_orientation(kind: bytes, data: bytes) -> bool:
    """Returns whether a chunk of text is short and can say which way up the image is."""
    keyword, _, rest = data.partition(b"\0")
    if keyword not in ORIENTATIONS or len(data) == MAX_TEXT:
        return False
    is_packed = kind == b"zTXt" or (kind == b"iTXt" and rest[:1] == b"\1")
    if not is_packed:
        return True
    packed = rest[1:] if kind == b"zTXt" else rest[2:].split(b"\0", 2)[-1]
    try:
        unpacker = zlib.decompressobj()
        unpacker.decompress(packed, MAX_TEXT)
    except zlib.error:
        return False
    return unpacker.eof
