"""The data card of a run: what its problems are, what was left out and why, which figures its splits share.

Beside the numbers and never hashed: the trial's name has the fingerprint of the data already.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from saei.atomic import write_json
from saei.config import DataConfig
from saei.data import fingerprint, origin, shifted_splits, split_facts
from saei.data.catalog import prompt_texts
from saei.data.golds import gold_against_itself
from saei.data.shared import shared_figures
from saei.data.split_facts import SplitFacts
from saei.data.survey import PictureFacts
from saei.reward import Scorer

VERSION = 1
GOLDS_AT_START = 200
"""Golds of each split that the card of a run has graded; `python -m saei.data` grades all."""
EXAMPLES = 5
TINY = 28  # side of a token of Qwen2.5-VL, in pixels


def splits_of(data: DataConfig) -> tuple[str, ...]:
    """The splits that a run with this data reads, each once."""
    return tuple(dict.fromkeys((data.train_split, data.validation_split, data.test_split, *shifted_splits(data))))


def data_card(
    data: DataConfig, scorer: Scorer, splits: Sequence[str] | None = None, golds: int | None = None
) -> dict[str, Any]:
    """The card as plain JSON types. At most `golds` answers of a split are graded against themselves (None: all).

    Raises ValueError for a split that cannot be loaded.
    """
    names = splits_of(data) if splits is None else tuple(splits)
    facts = {split: split_facts(data, split) for split in names}
    return {
        "version": VERSION,
        "source": data.source,
        "path": data.path,
        **origin(data),
        "fingerprint": fingerprint(data) if splits is None else "",
        "prompt": {"name": data.prompt, **asdict(prompt_texts(data))},
        "min_pixels": data.min_pixels,
        "max_pixels": data.max_pixels,
        "splits": {split: _split_card(found, scorer, golds) for split, found in facts.items()},
        "shared_figures": [
            shared_figures(a, facts[a], b, facts[b])
            for a, b in combinations(names, 2)
            if not (facts[a].sampled or facts[b].sampled)  # drawn anew for every problem
        ],
    }


def keep_data_card(path: Path, data: DataConfig, scorer: Scorer) -> None:
    """Write the card of a run to `path`, unless the card of the same data is there already."""
    if path.exists():
        there = json.loads(path.read_text())
        if (there.get("version"), there.get("fingerprint")) == (VERSION, fingerprint(data)):
            return
    write_json(path, data_card(data, scorer, golds=GOLDS_AT_START))


def _split_card(found: SplitFacts, scorer: Scorer, golds: int | None) -> dict[str, Any]:
    problems = list(found.problems)
    reasons = Counter(one.reason for one in found.skipped)
    report = gold_against_itself(problems if golds is None else problems[:golds], scorer)
    return {
        "rows": found.rows,
        "published_rows": found.published or None,
        "problems": found.rows if found.sampled else len(problems),
        "looked_at": len(problems),
        "fingerprint": found.fingerprint,
        "skipped": {
            reason: {
                "count": count,
                "examples": [one.row_id for one in found.skipped if one.reason == reason][:EXAMPLES],
                "details": next((one.details for one in found.skipped if one.reason == reason), ""),
            }
            for reason, count in reasons.most_common()
        },
        "answer_types": dict(Counter(problem.answer_type for problem in problems).most_common()),
        "kinds": dict(Counter(problem.kind for problem in problems).most_common(30)),
        "images": _images(found.pictures),
        "golds": {**asdict(report), "share": report.share},
    }


def _images(pictures: Sequence[tuple[PictureFacts, ...]]) -> dict[str, Any]:
    every = [picture for of_problem in pictures for picture in of_problem]
    counts = Counter(picture.pixels for picture in every)
    return {
        "count": len(every),
        "different": len(counts),
        "most_problems_of_one": max(counts.values(), default=0),
        "per_problem": dict(sorted(Counter(str(len(of_problem)) for of_problem in pictures).items())),
        "modes": dict(Counter(picture.mode for picture in every).most_common()),
        "formats": dict(Counter(picture.format for picture in every if picture.format).most_common()),
        "width": _spread([picture.width for picture in every]),
        "height": _spread([picture.height for picture in every]),
        "pixels": _spread([picture.width * picture.height for picture in every]),
        "below_28_pixels": sum(min(picture.width, picture.height) < TINY for picture in every),
        "longest_aspect": max(
            (max(picture.width, picture.height) / min(picture.width, picture.height) for picture in every), default=None
        ),
    }


def _spread(values: Sequence[int]) -> dict[str, int | float] | None:
    """Smallest, middle and largest; None of nothing."""
    return {"min": min(values), "median": median(values), "max": max(values)} if values else None
