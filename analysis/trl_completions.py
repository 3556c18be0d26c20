"""The completions that a TRL run logged -> rows of `rollouts`."""

# pandas carries no types that a checker can follow
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false

import hashlib
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from saei import schema

FILE = re.compile(r"completions_(?P<step>[0-9]+)\.parquet")
ATTACK_COLUMNS = ("attack_linf", "attack_l2", "attack_gain")
COLUMNS = (*schema.ROLLOUTS, *ATTACK_COLUMNS)
UNLOGGED = {
    **dict.fromkeys(COLUMNS, math.nan), "view": "clean", "text": "", "answer": "", "grade_status": "", "image_hash": "",
    "finished": None, "trained": True,
}  # fmt: skip
"""What stands where TRL logs nothing; without our sampling every completion is clean."""


def read_completions(
    folder: Path,
    functions: Sequence[str],
    *,
    weights: Mapping[str, float],
    accuracy: str | None,
    format_: str | None,
    mixed: Collection[int],
) -> tuple[pd.DataFrame, list[str]]:
    """Training completions of all files of `folder`, and sentences on what is left out.

    `functions` are the reward functions, `weights` theirs where not 1. A batch that several updates learn from is in
    several files and counts once, at the first. At the steps `mixed` an evaluation replaced the file of the training
    step; our own sampling tells its rows apart, others are left out. Problems without an id of ours have a hash of
    their words, and completions are numbered as they come.
    """
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    known: set[tuple[Any, ...]] = set()
    found = ((FILE.fullmatch(path.name), path) for path in folder.glob("*.parquet"))
    for step, path in sorted((int(name["step"]), path) for name, path in found if name):
        try:
            logged = pq.read_table(path).to_pylist()
        except (pa.ArrowInvalid, OSError):
            notes.append(f"{path} is left out: it is no whole parquet file, as a killed run may leave")
            continue
        if step in mixed:
            told = any(row.get("rollout") for row in logged)
            lost = "training completions that it held are not here" if told else "it is left out"
            notes.append(f"{path}: an evaluation at the same step wrote over it; {lost}")
            if not told:
                continue
        counted = Counter[str]()
        for row in logged:
            own = _row(row, step, counted, functions, weights, accuracy, format_)
            if own is not None and own.pop("batch") not in known:
                rows.append(own)
        known |= {_batch(row) for row in logged if row.get("rollout")}
    return pd.DataFrame(rows, columns=list(COLUMNS)), notes


def _batch(row: Mapping[str, Any]) -> tuple[Any, ...]:
    rollout = row["rollout"]
    return rollout["step"], rollout["problem_id"], rollout["index"]


def _row(
    row: Mapping[str, Any],
    step: int,
    counted: Counter[str],
    functions: Sequence[str],
    weights: Mapping[str, float],
    accuracy: str | None,
    format_: str | None,
) -> dict[str, Any] | None:
    """COLUMNS of one logged completion, and `batch` that names it; None for one of an evaluation."""
    rollout = row.get("rollout") or {}
    if rollout.get("phase", "train") != "train":
        return None
    prompt = hashlib.sha256(repr(row.get("prompt")).encode()).hexdigest()[:16]
    counted[prompt] += 1
    rewards = {name: row[name] for name in functions if row.get(name) is not None and not math.isnan(row[name])}
    facts = {name: rollout[name] for name in (*schema.ROLLOUTS, *ATTACK_COLUMNS) if name in rollout and name != "step"}
    return {
        **UNLOGGED,
        "problem_id": prompt,
        "index": counted[prompt] - 1,
        **facts,
        "view": row.get("view") or "clean",
        "step": step - 1,
        "text": _text(row.get("completion")),
        "reward": sum(weights.get(name, 1.0) * value for name, value in rewards.items()) if rewards else math.nan,
        "reward_accuracy": rewards.get(accuracy, math.nan) if accuracy else math.nan,
        "reward_format": rewards.get(format_, math.nan) if format_ else math.nan,
        "advantage": row.get("advantage", math.nan),
        "batch": _batch(row) if rollout else ("file", step, prompt, counted[prompt]),
    }


def _text(completion: Any) -> str:
    """The words of a completion: a string, or messages whose content is a string or text blocks."""
    if not isinstance(completion, list):
        return str(completion or "")
    words = []
    for message in completion:
        content = (message or {}).get("content") or ""
        parts = content if isinstance(content, list) else [{"text": content}]
        words += [str(part.get("text") or "") for part in parts]
    return "".join(words)
