"""The model card that ships with the weights, and its figures as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saei.tiny.warmstart import WarmStart

TEXT = """---
license: apache-2.0
pipeline_tag: image-text-to-text
---
# The tiny vision-language model of the SaEI workbench

A true `Qwen2_5_VLForConditionalGeneration` with {parameters:,} weights (float32), a byte-level tokenizer of
{vocabulary} entries, Qwen's special tokens and chat template, and the stock image processor. It reads a 3x3 grid of
handwritten digits and answers questions about it in `<think>...</think>\\boxed{{answer}}`. It knows nothing else: on
photographs, diagrams and free text it is at chance. It exists so that reinforcement learning has something real and
small to act on.

## How it was made
`python -m saei.tiny.warmstart --seed {seed}`: {seconds:.0f} s on one thread of the machine that built it.
1. `reading`: {reading_steps} steps (batch {batch}, AdamW, one-cycle, peak {reading_lr}) of reading the grid out; each
   vision token is also taught the word of its digit.
2. `mixed`: {mixed_steps} steps (peak {lr}) of questions about pictures, {reading_share:.0%} reading kept, solutions in
   four styles of which steps go wrong with probability {wrong} times the style's factor (0.6 careful to 1.5 terse), so
   that it starts unsure and has room to learn.
3. `practice`: {practice_steps} steps (peak {lr}) without reading, and beside it as many right solutions as text alone.

Data: UCI optical digits (CC BY 4.0) inside scikit-learn, training scans only. Weights: Apache-2.0.

## What it does before any reinforcement learning
{problems} problems of each split, `test` and `validation` on scans it never saw; temperature 1, full vocabulary.

| figure | value |
|---|---|
{table}

`accuracy_grey` is with a uniformly grey picture, `accuracy_other_image` with the next problem's picture: both are at
or under what answering each kind of question with its most frequent answer gives (`majority_rate`): it must look.
"""


def write_card(folder: Path, recipe: "WarmStart", figures: Mapping[str, int | float], seconds: float) -> None:
    """Write MODEL_CARD.md and card.json (the same figures, for tests) into `folder`."""
    values = asdict(recipe)
    values.pop("out")
    shown = {name: value for name, value in figures.items() if name not in ("parameters", "vocabulary", "problems")}
    table = "\n".join(f"| {name} | {value:.3f} |" for name, value in shown.items())
    text = TEXT.format(
        **values,
        seconds=seconds,
        table=table,
        parameters=int(figures["parameters"]),
        vocabulary=int(figures["vocabulary"]),
        problems=int(figures["problems"]),
    )
    (folder / "MODEL_CARD.md").write_text(text)
    record = {"recipe": values, "seconds": round(seconds), "figures": dict(figures)}
    (folder / "card.json").write_text(json.dumps(record, indent=2) + "\n")
