"""Whether a picture's EXIF tag turns it, told without decoding the picture where its file allows.

Pillow decodes a whole PNG before it answers, because the tag may lie behind the pixels; the list of its chunks says
in a few reads that there is none, as in almost every PNG.
"""

import struct
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from saei.data.pictures import BadPicture, open_picture, orientation

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_KEYWORDS = (b"exif", b"xmp", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Starts of the texts in which Pillow looks for an orientation, beside the chunk eXIf."""


def is_turned(path: Path) -> bool:
    """Whether a file's EXIF tag says that the picture is to be turned; False for what is no picture.

    Remembered until the file's size or time changes.
    """
    stat = path.stat()
    return _is_turned(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=200_000)
def _is_turned(path: Path, size: int, mtime_ns: int) -> bool:
    try:
        with path.open("rb") as file:
            if _plain_png(file):
                return False
        with open_picture(path) as picture:
            return orientation(picture) != 1
    except (BadPicture, OSError, SyntaxError, ValueError):
        return False


def _plain_png(file: BinaryIO) -> bool:
    """Whether a file is a PNG, whole up to its last chunk, that holds nothing an orientation is read from."""
    if file.read(len(_SIGNATURE)) != _SIGNATURE:
        return False
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return True
        start = file.read(min(length, 24)) if kind in _TEXTS else b""
        if kind == b"eXIf" or start.startswith(_KEYWORDS):
            return False
        file.seek(length - len(start) + 4, 1)  # and the checksum
    return False
