"""Bytes of each phase of a step on one device: what lies there all the time, and what the phase adds at its peak."""

import math
from dataclasses import dataclass
from typing import Any

from saei.config import Config
from saei.decoder import GROWTH
from saei.head import CHUNK_VALUES, tile_bytes
from saei.plan.activations import decoder_bytes, packed_row, vision_bytes
from saei.plan.storage import Layout, at_rest, gathered_for_update, gathered_whole, gradients
from saei.plan.workload import Workload

GIB = 2**30
LOGIT_COPIES = 6
"""Tensors in the shape of the logits at once, in float32: logits, scaled, log-softmax, its exp, two gradients."""
RESERVE = 0.10
"""Share of a device left free: fragments of the allocator, CUDA's own context, kernels' workspaces."""


@dataclass(frozen=True, slots=True)
class Phase:
    """`parts`: name -> bytes on one device, at the phase's peak."""

    name: str
    parts: dict[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.parts.values())


def cache_bytes(model: Any, rows: int, columns: int) -> int:
    """Keys and values of `rows` rows of `columns` tokens, in the type of the model."""
    text = model.config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    numbers = 2 * text.num_hidden_layers * text.num_key_value_heads * head
    return numbers * rows * columns * model.dtype.itemsize


def cache_columns(new_tokens: int) -> int:
    """Columns that every row has of its own when the longest one ends: they grow by `decoder.GROWTH` at a time."""
    return GROWTH * max(1, math.ceil((new_tokens - 1) / GROWTH))


def phases(config: Config, model: Any, codec: Any, layout: Layout, work: Workload) -> list[Phase]:
    """Every phase of a step, in order. `model` is on meta, with the settings' frozen parameters."""
    rest = at_rest(model, layout)
    found = [Phase("at rest", rest)]
    found.append(Phase("sampling", rest | _sampling(config, model, layout, work)))
    if config.changes_inputs:
        found.append(Phase("attack", rest | _attack(config, model, codec, layout, work)))
    found.append(Phase("scoring", rest | _scoring(config, model, layout, work)))
    found.append(Phase("update", rest | _update(config, model, layout, work)))
    return found


def _sampling(config: Config, model: Any, layout: Layout, work: Workload) -> dict[str, int]:
    text = model.config.get_text_config()
    rows = config.rollout.batch_rows
    group = max(1, min(entry.count for entry in config.group_plan()))
    prompts = max(1, rows // group)
    columns = cache_columns(config.rollout.max_new_tokens)
    tokens = prompts * work.prompt
    size = layout.compute.itemsize
    return {
        "gathered weights": gathered_whole(model, layout),
        "KV cache of the rows": cache_bytes(model, rows, columns),
        "one layer's cache while it grows": cache_bytes(model, rows, columns) // (2 * text.num_hidden_layers),
        "KV cache of the prompts": cache_bytes(model, prompts, work.prompt),
        "prefill pass": tokens * (3 * text.intermediate_size + 6 * text.hidden_size) * size,
        "next-token logits": LOGIT_COPIES * rows * text.vocab_size * 4,
    }


def _attack(config: Config, model: Any, codec: Any, layout: Layout, work: Workload) -> dict[str, int]:
    """Where every planned view is made without a gradient (noise, masks), only the images."""
    earlier = config.group_plan()[0].count
    together = max(1, config.optim.pack_tokens // (work.prompt + earlier * work.completion))
    pixels = 3 * config.data.max_pixels * 4
    parts = {"gathered weights": gathered_whole(model, layout), "adversarial images": 4 * together * pixels}
    if {entry.view for entry in config.group_plan()} & CLIMBING:
        longest = max(config.optim.pack_tokens, work.prompt + config.rollout.max_new_tokens)
        row = packed_row(longest, work.prompt, work.completion, earlier)
        dtype, again = layout.compute, layout.recompute
        kept = vision_bytes(model.config, dtype, codec, work.patches, recompute=again)
        parts |= {
            "decoder activations": decoder_bytes(model.config, dtype, row, recompute=again, weights=False),
            "vision activations": together * kept,
            "logits": _logits(layout, compared=config.select.score != "entropy"),
        }
    return parts


CLIMBING = frozenset(("egas", "random_sign", "gaussian", "error", "text_embedding"))
"""Views that follow a gradient, or measure themselves by one."""


def _scoring(config: Config, model: Any, layout: Layout, work: Workload) -> dict[str, int]:
    text = model.config.get_text_config()
    row = packed_row(config.optim.pack_tokens, work.prompt, work.completion, config.group_size)
    values = row.tokens * (3 * text.intermediate_size + 4 * text.hidden_size) + 2 * row.keys * text.hidden_size
    return {
        "gathered weights": gathered_whole(model, layout),
        "one pass": (values + row.pairs) * layout.compute.itemsize,
        "logits": _logits(layout, compared=bool(config.score_view_users())),
    }


def _logits(layout: Layout, *, compared: bool) -> int:
    """Tiles of the head, or chunks of whole logits where the distributions under two images are compared."""
    return LOGIT_COPIES * CHUNK_VALUES * 4 if compared else tile_bytes(layout.compute, "cuda")


def _update(config: Config, model: Any, layout: Layout, work: Workload) -> dict[str, int]:
    text = model.config.get_text_config()
    row = packed_row(config.optim.pack_tokens, work.prompt, work.completion, config.group_size)
    return {
        "gathered weights": gathered_for_update(model, layout),
        "gradients": gradients(model, layout),
        "decoder activations": decoder_bytes(
            model.config, layout.compute, row, recompute=layout.recompute, weights=True
        ),
        "gradients of activations": (3 * row.tokens * text.intermediate_size + 2 * row.keys * text.hidden_size)
        * layout.compute.itemsize,
        "logits": _logits(layout, compared=False),
    }


def advice(config: Config, found: list[Phase], layout: Layout, device_bytes: float) -> list[str]:
    """What to change where a phase does not fit, the cheapest change first; empty where all fit."""
    room = device_bytes * (1 - RESERVE)
    return [
        f"{phase.name} needs {phase.bytes / GIB:.1f} GiB and {room / GIB:.1f} GiB are to be had "
        f"({RESERVE:.0%} left free): {'; or '.join(_cures(config, phase, layout))}"
        for phase in found
        if phase.bytes > room
    ]


def _cures(config: Config, phase: Phase, layout: Layout) -> list[str]:
    cures = []
    if phase.name in ("attack", "scoring", "update"):
        if phase.parts.get("decoder activations") and not layout.recompute:
            cures.append("--model.gradient-checkpointing")
        cures.append(f"--optim.pack-tokens {max(256, config.optim.pack_tokens // 2)}")
    if phase.name == "sampling":
        cures.append(f"--rollout.batch-rows {max(1, config.rollout.batch_rows // 2)}")
    if config.distributed.strategy != "shard":
        cures.append("--distributed.strategy shard on several GPUs")
    else:
        cures.append("more GPUs")
    return [*cures, "--model.lora-rank 64, which trains an adapter only", "a smaller model"]
