"""`python -m saei.tiny.warmstart` rebuilds the tiny model end to end: tokenizer, fresh weights, three phases, its card.

Phase `reading` reads grids out; without it the questions stay at chance for long. Phase `mixed` answers questions from
pictures, with solutions of which some are wrong (saei/tiny/solutions.py), and still reads. Phase `practice` goes on
without reading, and learns arithmetic beside it from right solutions as text alone (short rows, no picture); at the
beginning, such text taught it to guess rather than to look. Only training scans are seen, in grids beyond those of the
`train` split.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import cross_entropy, rms_norm
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from saei.data.digits import CELL, draw, question_of, task_at
from saei.seeding import stream
from saei.tiny import model_dir
from saei.tiny.build import IMAGE_PROCESSOR, build_model, build_tokenizer, save
from saei.tiny.card import write_card
from saei.tiny.measure import measure
from saei.tiny.solutions import READ_QUESTION, reading, solution

log = logging.getLogger(__name__)

# Warm-start grids are numbered from here on, far beyond any train split.
FIRST_INDEX = 10_000_000
PHASES = ("reading", "mixed", "practice", "text")
STRIDE = 1_000_000
SIDE_CELLS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmStart:
    """The recipe of the shipped weights."""

    out: Path = field(default_factory=model_dir)
    """Folder that the model is written to."""
    seed: int = 0
    """Seed of weights, problems and mistakes."""
    reading_steps: int = 150
    """Steps of phase `reading`."""
    mixed_steps: int = 700
    """Steps of phase `mixed`."""
    practice_steps: int = 400
    """Steps of phase `practice`."""
    batch: int = 64
    """Examples a step."""
    reading_lr: float = 2e-3
    """Peak learning rate of phase `reading`."""
    lr: float = 1.5e-3
    """Peak learning rate of phases `mixed` and `practice`."""
    reading_share: float = 0.25
    """Share of phase `mixed` that still reads the grid out."""
    wrong: float = 0.12
    """Share of wrong steps in worked solutions about pictures, before the style's factor."""
    threads: int = 1
    """Torch threads."""
    measure_problems: int = 256
    """Problems that each figure of the card is measured on."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Supervised examples, right-padded; `labels` are -100 outside completions; `cells` are the digits' tokens.

    `pixel_values` and `cells` are empty where there is no picture.
    """

    input_ids: Int[Tensor, "rows tokens"]
    labels: Int[Tensor, "rows tokens"]
    pixel_values: Float[Tensor, "patches values"]
    cells: Int[Tensor, " vision_tokens"]


def patches_of(pictures: UInt8[np.ndarray, "rows height width 3"]) -> Float[Tensor, "patches values"]:
    """The pictures as the image processor would give them: normalised, cut into 14-pixel patches in merge order."""
    rows, height, width, _ = pictures.shape
    mean, std = (torch.tensor(IMAGE_PROCESSOR[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    pixels = (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - mean) / std
    cut = pixels.view(rows, 3, height // CELL, 2, 14, width // CELL, 2, 14).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return cut.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1).reshape(-1, 3 * 2 * 14 * 14)


@cache
def prompt_ids(tokenizer: PreTrainedTokenizerFast, question: str) -> list[int]:
    """The chat prompt of one 3x3 grid with its image placeholder expanded."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    messages: Any = [{"role": "user", "content": content}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tokenizer(str(text).replace("<|image_pad|>", "<|image_pad|>" * SIDE_CELLS**2)).input_ids


def make_batch(recipe: WarmStart, tokenizer: PreTrainedTokenizerFast, phase: str, step: int) -> Batch:
    """Examples of one step: a function of its arguments."""
    random = stream(recipe.seed, "warmstart", phase, step)
    token: Any = tokenizer.convert_tokens_to_ids
    prompts, completions, pictures, cells = [], [], [], []
    start = FIRST_INDEX + PHASES.index(phase) * STRIDE + step * recipe.batch
    reading_share = {"reading": 1.0, "mixed": recipe.reading_share, "practice": 0.0, "text": 0.0}[phase]
    for index in range(start, start + recipe.batch):
        task = task_at("train", index, recipe.seed)
        if phase == "text":
            prompts.append(tokenizer(question_of(task) + "\n").input_ids)
            completions.append(tokenizer(solution(task, random, 0.0) + "<|im_end|>").input_ids)
            continue
        read = phase == "reading" or random.random() < reading_share
        prompts.append(prompt_ids(tokenizer, READ_QUESTION if read else question_of(task)))
        text = reading(task) if read else solution(task, random, recipe.wrong)
        completions.append(tokenizer(text + "<|im_end|>").input_ids)
        pictures.append(draw(task, "none", random))
        cells.extend(token([str(digit) for digit in task.digits.flat]))
    longest = max(len(prompt) + len(completion) for prompt, completion in zip(prompts, completions, strict=True))
    pad: Any = tokenizer.pad_token_id
    input_ids = torch.full((recipe.batch, longest), pad)
    labels = torch.full_like(input_ids, -100)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        end = len(prompt) + len(completion)
        input_ids[row, :end] = torch.tensor(prompt + completion)
        labels[row, len(prompt) : end] = torch.tensor(completion)
    pixel_values = patches_of(np.stack(pictures)) if pictures else torch.zeros(0, 3 * 2 * 14 * 14)
    return Batch(input_ids, labels, pixel_values, torch.tensor(cells, dtype=torch.long))


def forward_loss(
    model: Qwen2_5_VLForConditionalGeneration, batch: Batch, *, name_cells: bool
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean negative log-likelihood (nats) of the completion tokens, and of each cell's digit given its vision token.

    The second (zero unless `name_cells`) compares the vision token with the digits' word embeddings: it teaches the
    vision tower what a cell shows before the language model has learned where to look.
    """
    inner: Any = model.model
    seen = None
    if len(batch.pixel_values):
        rows, tokens = batch.input_ids.shape
        image = batch.input_ids[:1] == model.config.image_token_id
        grid = torch.tensor([[1, 2 * SIDE_CELLS, 2 * SIDE_CELLS]])
        # Every prompt has its image at the same place, so one row's positions are everyone's.
        positions, _ = inner.get_rope_index(batch.input_ids[:1], mm_token_type_ids=image.int(), image_grid_thw=grid)
        seen = inner.get_image_features(batch.pixel_values, grid.expand(rows, 3), return_dict=True)
        hidden = inner(
            input_ids=batch.input_ids,
            position_ids=positions.expand(3, rows, tokens),
            mm_encoder_outputs={"image": seen},
            image_grid_thw=grid.expand(rows, 3),
            use_cache=False,
        ).last_hidden_state
    else:
        hidden = inner.language_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    wanted = batch.labels[:, 1:] != -100
    loss = cross_entropy(model.lm_head(hidden[:, :-1][wanted]).float(), batch.labels[:, 1:][wanted])
    if seen is None or not name_cells:
        return loss, torch.zeros(())
    vision = torch.cat(seen.pooler_output)
    return loss, cross_entropy(model.lm_head(rms_norm(vision, vision.shape[-1:])), batch.cells)


def train_phase(
    model: Qwen2_5_VLForConditionalGeneration,
    batches: Iterator[Sequence[Batch]],
    steps: int,
    lr: float,
    *,
    name_cells: bool,
    after_step: Callable[[int, Sequence[float]], None],
) -> None:
    """AdamW, one-cycle learning rate, gradient norm clipped at 1; a step adds the losses of its batches."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps, pct_start=0.15)
    model.train()
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        losses = []
        for batch in next(batches):
            loss, naming = forward_loss(model, batch, name_cells=name_cells)
            (loss + naming).backward()
            losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        after_step(step, losses)
    model.eval()


def warm_start(recipe: WarmStart) -> Qwen2_5_VLForConditionalGeneration:
    """Build, train, save, measure; returns the model. About twenty minutes on one thread."""
    torch.set_num_threads(recipe.threads)
    began = time.perf_counter()
    tokenizer = build_tokenizer(recipe.seed)
    model = build_model(tokenizer, recipe.seed)
    for phases, steps, lr in (
        (("reading",), recipe.reading_steps, recipe.reading_lr),
        (("mixed",), recipe.mixed_steps, recipe.lr),
        (("practice", "text"), recipe.practice_steps, recipe.lr),
    ):

        def report(step: int, losses: Sequence[float], phase: str = phases[0], steps: int = steps) -> None:
            if step % 25 == 0 or step == steps - 1:
                shown = ", ".join(f"{loss:.3f}" for loss in losses)
                log.info("%s %d/%d loss %s, %.0f s", phase, step, steps, shown, time.perf_counter() - began)

        batches = ([make_batch(recipe, tokenizer, phase, step) for phase in phases] for step in range(steps))
        train_phase(model, batches, steps, lr, name_cells=phases == ("reading",), after_step=report)
    save(model, tokenizer, recipe.out)
    seconds = time.perf_counter() - began
    write_card(recipe.out, recipe, measure(recipe.out, problems=recipe.measure_problems), seconds)
    return model


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    warm_start(tyro.cli(WarmStart, description=__doc__))
