"""What the pictures of a split are: each decoded once, one at a time, and what was seen kept for the next start.

A picture that cannot be decoded is known before the first step, by its row, and not in the middle of a run. What was
seen is kept below the cache of `datasets`, under the hash of the split's content, so that later starts decode nothing.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from saei.atomic import write_json
from saei.data.pictures import BadPicture, Encoded, on_white, open_picture

VERSION = 1
_THREADS = 4  # Pillow decodes without the interpreter lock
REDUCED = 16
"""Side of the small picture by which near copies are found."""
RowT = TypeVar("RowT")


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureFacts:
    """One picture: `pixels` is a sha256 (16 hex digits) of its size and RGB levels, `reduced` its 16 x 16 grey levels
    in hex, by which near copies are found. `reason` is set where it cannot be used.
    """

    pixels: str = ""
    reduced: str = ""
    format: str = ""
    mode: str = ""
    width: int = 0
    height: int = 0
    reason: str = ""
    details: str = ""


def look_at(encoded: Encoded) -> PictureFacts:
    """Decode one picture and say what it is; a broken one has a `reason`."""
    try:
        with open_picture(encoded) as picture:
            seen: dict[str, Any] = {"format": picture.format or "", "mode": picture.mode}
            levels = on_white(picture)
    except BadPicture as error:
        return PictureFacts(reason=error.reason, details=str(error)[:200])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return PictureFacts(reason="image unreadable", details=str(error)[:200])
    height, width = levels.shape[:2]
    return PictureFacts(
        **seen, width=width, height=height, pixels=hash_of_levels(levels), reduced=_reduced(levels)
    )  # fmt: skip


def hash_of_levels(levels: UInt8[np.ndarray, "height width 3"]) -> str:
    """sha256 (16 hex digits) over the size and the levels of a picture, however it was encoded."""
    digest = hashlib.sha256(repr(levels.shape).encode())
    digest.update(np.ascontiguousarray(levels).tobytes())
    return digest.hexdigest()[:16]


def _reduced(levels: UInt8[np.ndarray, "height width 3"]) -> str:
    grey = Image.fromarray(levels).convert("L")
    return grey.resize((REDUCED, REDUCED), Image.Resampling.BOX).tobytes().hex()


def survey(
    pictures_of: Callable[[RowT], list[Encoded]], rows: Sequence[RowT], content: str
) -> list[tuple[PictureFacts, ...]]:
    """What the pictures of each row are. `content` is the sha256 of all that `pictures_of` reads.

    Kept below the cache of `datasets`; where nothing can be written there, everything is looked at again next time.
    """
    from datasets import config

    key = hashlib.sha256(f"{VERSION}\0{len(rows)}\0{content}".encode()).hexdigest()[:32]
    path = Path(config.HF_DATASETS_CACHE) / "saei" / f"pictures-{key}.json"
    known = _read(path, len(rows))
    if known is not None:
        return known
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda row: tuple(look_at(encoded) for encoded in pictures_of(row)), rows))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"rows": [[asdict(picture) for picture in pictures] for pictures in found]})
    except OSError:
        pass
    return found


def _read(path: Path, rows: int) -> list[tuple[PictureFacts, ...]] | None:
    """What was seen before; None where it is not there or not whole."""
    try:
        kept = json.loads(path.read_text())["rows"]
        found = [tuple(PictureFacts(**picture) for picture in pictures) for pictures in kept]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if len(found) == rows else None
