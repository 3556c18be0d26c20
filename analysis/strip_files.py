"""Image strips on disk -> pixels and texts. Their pictures and texts come from models and file systems: untrusted.

A strip is clean | moved | amplified difference with white between them (`saei/strips.py`). The difference is taken
from the first two pictures; the third is for the eye, stretched and rounded.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from saei import schema

GAP = 4
"""White columns between the pictures."""
MOST_BYTES, MOST_PIXELS = 32 * 2**20, 24_000_000
MOST_TEXT, MOST_TOKENS, MOST_COMPLETIONS = 2**20, 20_000, 4
"""Characters of a strip's text, tokens of a completion in it, completions that are shown."""


@dataclass(frozen=True, slots=True)
class Completion:
    """Token texts of a completion that the attack read, and the positions that it acted on."""

    tokens: tuple[str, ...]
    kept: frozenset[int]


@dataclass(frozen=True, slots=True, eq=False)
class Strip:
    """`clean`, `moved`: uint8, height x width x 3. `note` says why there are no completions, where there are none."""

    clean: np.ndarray
    moved: np.ndarray
    completions: tuple[Completion, ...]
    note: str

    @property
    def change(self) -> np.ndarray:
        """moved - clean in signed grey levels, int16, height x width x 3."""
        return self.moved.astype(np.int16) - self.clean.astype(np.int16)


def read_strip(path: Path) -> Strip:
    """Pixels and completions of one strip.

    Raises ValueError with a sentence for a file that is too large, damaged, no PNG or no strip; a text that is missing
    or not as `schema.ABOUT` says gives a strip without completions and a note.
    """
    path = Path(path)
    pixels, about = _opened(path)
    clean, moved = panels(pixels, path.name)
    completions, note = parsed(about)
    return Strip(clean, moved, completions, note)


def _opened(path: Path) -> tuple[np.ndarray, Any]:
    """Pixels and the text of a PNG that is no larger than a strip."""
    try:
        size = path.stat().st_size
        with warnings.catch_warnings():
            # the size is checked here; Pillow's own limit is far higher
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # opening reads the header alone
            with Image.open(path, formats=("PNG",)) as image:
                small = size <= MOST_BYTES and image.width * image.height <= MOST_PIXELS
                pixels = np.asarray(image.convert("RGB")) if small else np.empty(0)
                shape, about = f"{image.width} x {image.height} pixels", image.info.get(schema.ABOUT)
    # Pillow has a ValueError for texts that unpack to more than a megabyte
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path.name} cannot be read as a PNG ({error}); delete it") from error
    if not small:
        most = f"a strip has at most {MOST_PIXELS} pixels and {MOST_BYTES} bytes"
        raise ValueError(f"{path.name}: {shape} in {size} bytes, {most}; delete it")
    return pixels, about


def panels(pixels: np.ndarray, name: str = "strip") -> tuple[np.ndarray, np.ndarray]:
    """The first two of three equal pictures with GAP white columns between; ValueError where that is not so."""
    width, rest = divmod(pixels.shape[1] - 2 * GAP, 3)
    starts = (width, 2 * width + GAP)
    if rest or width < 1 or any((pixels[:, start : start + GAP] != 255).any() for start in starts):
        raise ValueError(
            f"{name}: {pixels.shape[1]} columns are no three pictures with {GAP} white columns between them; it is no "
            "strip of this version, delete it"
        )
    return pixels[:, :width], pixels[:, width + GAP : 2 * width + GAP]


def parsed(about: Any) -> tuple[tuple[Completion, ...], str]:
    """The completions of a strip's text, and a note where it holds none that can be shown."""
    if about is None:
        return (), "no completions: the run is older than their record"
    if len(about) > MOST_TEXT:
        return (), f"its completions are not shown: {len(about)} characters, at most {MOST_TEXT} are read"
    try:
        tree = json.loads(about)
    # a hostile text nests until the parser's stack ends, or holds a number of a million digits
    except (ValueError, TypeError, RecursionError):
        return (), "its completions are not shown: the text is not JSON"
    if not isinstance(tree, list):
        return (), "its completions are not shown: the text is no list"
    found = [_completion(entry) for entry in tree[:MOST_COMPLETIONS]]
    if None in found:
        return (), "its completions are not shown: an entry is not {tokens: [text], kept: [position]}"
    return tuple(entry for entry in found if entry is not None), "" if found else "the attack read no completion"


def _completion(entry: Any) -> Completion | None:
    if not isinstance(entry, dict):
        return None
    tokens, kept = entry.get("tokens"), entry.get("kept")
    if not isinstance(tokens, list) or not isinstance(kept, list) or max(len(tokens), len(kept)) > MOST_TOKENS:
        return None
    if not all(isinstance(token, str) for token in tokens):
        return None
    # type(...) is int: True is an int, too
    if not all(type(position) is int and 0 <= position < len(tokens) for position in kept):
        return None
    return Completion(tuple(tokens), frozenset(kept))
