"""Figures that stand in two splits: copies to the pixel, and near copies."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from saei.data.split_facts import SplitFacts
from saei.data.survey import REDUCED, PictureFacts

ALIKE_LEVELS = 1.5
"""Root mean square difference, in grey levels of the reduced pictures, up to which two are alike."""
SAME_ASPECT = 1.03
_AT_A_TIME = 1024


def shared_figures(name: str, one: SplitFacts, other_name: str, other: SplitFacts) -> dict[str, Any]:
    """`figures`: how many stand in both splits, equal in every pixel once decoded; `problems` of each split with one.

    `alike`: problems of each split whose picture is, at 16 x 16 grey levels, all but equal to one of the other: equal
    ones, resized and recompressed copies, and also a drawing that differs in a small label only.
    """
    exact = _pixels(one) & _pixels(other)
    mine, theirs = alike(_pictures(one), _pictures(other))
    return {
        "splits": [name, other_name],
        "figures": len(exact),
        "problems": [_problems_with(one, exact), _problems_with(other, exact)],
        "alike": [_problems_at(one, mine), _problems_at(other, theirs)],
    }


def alike(
    ones: Sequence[PictureFacts], others: Sequence[PictureFacts]
) -> tuple[Bool[np.ndarray, " ones"], Bool[np.ndarray, " others"]]:
    """Which pictures of each list have a near copy in the other; blank ones have none."""
    mine, theirs = np.zeros(len(ones), bool), np.zeros(len(others), bool)
    if not ones or not others:
        return mine, theirs
    (a, a_aspect), (b, b_aspect) = _reduced(ones), _reduced(others)
    drawn_a, drawn_b = a.std(axis=1) > ALIKE_LEVELS, b.std(axis=1) > ALIKE_LEVELS
    for start in range(0, len(a), _AT_A_TIME):
        part = slice(start, start + _AT_A_TIME)
        squared = (a[part] ** 2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a[part] @ b.T
        near = squared <= a.shape[1] * ALIKE_LEVELS**2
        near &= np.abs(a_aspect[part][:, None] - b_aspect[None]) <= np.log(SAME_ASPECT)
        near &= drawn_a[part][:, None] & drawn_b[None]
        mine[part] |= near.any(axis=1)
        theirs |= near.any(axis=0)
    return mine, theirs


def _reduced(
    pictures: Sequence[PictureFacts],
) -> tuple[Float[np.ndarray, "pictures levels"], Float[np.ndarray, " pictures"]]:
    """Reduced levels, and logarithms of the aspect ratios."""
    levels = np.frombuffer(bytes.fromhex("".join(picture.reduced for picture in pictures)), np.uint8)
    aspects = [np.log(picture.width / picture.height) for picture in pictures]
    return levels.reshape(len(pictures), REDUCED**2).astype(np.float64), np.array(aspects, np.float64)


def _pictures(found: SplitFacts) -> list[PictureFacts]:
    return [picture for pictures in found.pictures for picture in pictures]


def _pixels(found: SplitFacts) -> set[str]:
    return {picture.pixels for picture in _pictures(found)}


def _problems_with(found: SplitFacts, figures: set[str]) -> int:
    return sum(any(picture.pixels in figures for picture in pictures) for pictures in found.pictures)


def _problems_at(found: SplitFacts, marked: Bool[np.ndarray, " pictures"]) -> int:
    """How many problems have a picture that is marked."""
    ends = np.cumsum([len(pictures) for pictures in found.pictures])
    return sum(bool(own.any()) for own in np.split(marked, ends[:-1]))
