"""Pictures of data sets as RGB arrays: transparency on white, orientation as the file says, nothing too large opened.

File extensions lie, so Pillow decides what a file is. Every picture that a policy sees passes through `decode`.
"""

import os
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

LARGEST_PIXELS = 1 << 26
"""Pictures of more pixels are refused before they are decoded (200 MB as RGB; the largest of MathVision has 2^24.4)."""
LONGEST_ASPECT = 200
"""Longest over shortest side that the Qwen-VL resize takes."""
Encoded = bytes | Path


class BadPicture(ValueError):
    """A picture that cannot be used. `reason` is one of a few words, to be counted; the message has the details."""

    def __init__(self, reason: str, details: str) -> None:
        super().__init__(details)
        self.reason = reason


def open_picture(encoded: Encoded) -> Image.Image:
    """The picture of these bytes or this file, its header read and its size checked, nothing decoded yet.

    Raises BadPicture for one that is missing, not an image, of more than LARGEST_PIXELS, or longer than 200 : 1.
    """
    if isinstance(encoded, Path) and os.path.exists(encoded) and not os.path.isfile(encoded):
        raise BadPicture("image unreadable", "it is no file")  # opening a pipe would wait for ever
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            picture = Image.open(BytesIO(encoded) if isinstance(encoded, bytes) else encoded)
    except FileNotFoundError as error:
        raise BadPicture("image missing", "it does not exist") from error
    except Image.DecompressionBombError as error:
        raise BadPicture("image too large", str(error)) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise BadPicture("image unreadable", f"cannot be read as an image ({error})") from error
    width, height = picture.size
    if width * height > LARGEST_PIXELS:
        raise BadPicture("image too large", f"{width} x {height} pixels, more than {LARGEST_PIXELS} in all")
    if max(width, height) > LONGEST_ASPECT * min(width, height):
        raise BadPicture("image too long", f"{width} x {height} pixels, more than {LONGEST_ASPECT} : 1")
    return picture


def on_white(picture: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    """RGB levels: turned as its EXIF tag says (as `datasets` does, and every viewer), transparency laid on white,
    16-bit grey by its high byte.
    """
    if orientation(picture) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        levels = np.asarray(picture).astype(np.int64)
        picture = Image.fromarray(np.clip(levels >> 8, 0, 255).astype(np.uint8))
    if not picture.has_transparency_data:
        return np.array(picture.convert("RGB"))
    layer = picture.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return np.array(Image.alpha_composite(white, layer).convert("RGB"))


def orientation(picture: Image.Image) -> int:
    """The orientation that the EXIF tag says, 1 where it says none; a PNG is decoded for it."""
    return picture.getexif().get(ExifTags.Base.Orientation, 1)


def decode(encoded: Encoded) -> UInt8[np.ndarray, "height width 3"]:
    """The picture as RGB on white; raises BadPicture where that cannot be had."""
    with open_picture(encoded) as picture:
        try:
            return on_white(picture)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise BadPicture("image unreadable", f"cannot be read as an image ({error})") from error
