"""Next-token logits for many rows at once: prompts prefilled once, their cache read by all rows that share them.

A *prefix* is a prompt with its images; rows that share one are separate completions of it. A row's own cache holds the
tokens that were sampled; all rows are in step, so every row writes its next key and value in the same column. Rows that
have finished are dropped: their slot is taken over by the last living row, and only that row's cache is copied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from saei.attention import readable_mask
from saei.families import family_of
from saei.moved_text import moved_text
from saei.shared_prefix import SharedPrefixes, decoding
from saei.types import ByteImages, TextShift

GROWTH = 64
"""Columns added to the rows' own cache at a time, in tokens; a growth copies the rows still alive."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prompt as the model reads it: token ids with image placeholders expanded, 8-bit images, and moved text."""

    token_ids: tuple[int, ...]
    images: ByteImages
    text_shift: TextShift | None = None


@dataclass(frozen=True, slots=True)
class Prefill:
    """What one forward pass over several prefixes leaves behind; `keys[layer]` and `values[layer]` are the cache."""

    keys: list[Float[Tensor, "prefixes heads columns head_dim"]]
    values: list[Float[Tensor, "prefixes heads columns head_dim"]]
    attended: Bool[Tensor, "prefixes columns"]
    next_position: Int[Tensor, " prefixes"]
    logits: Float[Tensor, "prefixes vocabulary"]


def prefill(policy: Any, prefixes: Sequence[Prefix]) -> Prefill:
    """One forward pass over all prefixes, images included; the LM head runs on each last token only.

    Counts its tokens, padding left out, in `policy.tokens_forward`.
    """
    model, device, family = policy.model, policy.device, family_of(policy.model)
    columns = max(len(prefix.token_ids) for prefix in prefixes)
    # padding is never attended to and never read; any text token will do
    token_ids = torch.full((len(prefixes), columns), policy.end_token_ids[0], dtype=torch.long)
    attended = torch.zeros((len(prefixes), columns), dtype=torch.bool)
    for row, prefix in enumerate(prefixes):
        token_ids[row, columns - len(prefix.token_ids) :] = torch.tensor(prefix.token_ids)
        attended[row, columns - len(prefix.token_ids) :] = True
    token_ids, attended = token_ids.to(device), attended.to(device)
    images = [image for prefix in prefixes for image in prefix.images]
    positions, next_position = family.positions(model, policy.codec, token_ids, attended, images)
    ones = torch.ones((columns, columns), dtype=torch.bool, device=device)
    # a padding token attends to itself: a row without any attended column would be NaN, and NaN times 0 is NaN
    mask = (ones.tril() & attended[:, None, :]) | torch.eye(columns, dtype=torch.bool, device=device)
    cache = DynamicCache()
    shifts = [prefix.text_shift for prefix in prefixes]
    places = [(row, range(columns - len(prefix.token_ids), columns)) for row, prefix in enumerate(prefixes)]
    policy.tokens_forward += int(attended.sum())
    with moved_text(model.get_input_embeddings(), shifts, places):
        output = model(
            input_ids=token_ids,
            attention_mask=readable_mask(model, mask[:, None]),
            position_ids=family.position_ids(positions),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            mm_encoder_outputs=_features(policy, images),
        )
    return Prefill(
        keys=[layer.keys for layer in cache.layers],  # pyright: ignore
        values=[layer.values for layer in cache.layers],  # pyright: ignore
        attended=attended,
        next_position=next_position,
        logits=output.logits[:, -1],
    )


def _features(policy: Any, images: Sequence[Tensor]) -> dict[str, Any]:
    if not images:
        return {}
    family = family_of(policy.model)
    return family.reuse(family.encode(policy.model, policy.codec, images), range(len(images)))


class RowDecoder:
    """The decoding state of many rows; `logits` are those of the first new token, `step` gives the next ones.

    `prefix_of_row[i]` says which prefix of the prefill row i continues.
    """

    def __init__(self, policy: Any, start: Prefill, prefix_of_row: Int[Tensor, " rows"]) -> None:
        self.logits = start.logits[prefix_of_row]
        self._policy = policy
        self._model = policy.model
        self._family = family_of(policy.model)
        self._decoder = self._family.decoder(policy.model)
        self._alive = len(prefix_of_row)
        self._columns = 0
        self._prefix = prefix_of_row.clone()
        self._position = start.next_position[prefix_of_row]
        self._shared = SharedPrefixes(start.keys, start.values, start.attended)
        self._shared.seat(self._prefix)
        self._layers = [
            _RowLayer(_empty(keys, len(prefix_of_row)), _empty(values, len(prefix_of_row)))
            for keys, values in zip(start.keys, start.values, strict=True)
        ]
        self._cache = Cache(layers=list(self._layers))

    def step(
        self, tokens: Int[Tensor, " alive"], keep: Int[Tensor, " alive"] | None
    ) -> Float[Tensor, "alive vocabulary"]:
        """Append one token to every row that goes on and return the logits of its next token.

        `keep[i]` is the slot, at the previous call, of the row that now has slot i; None: all rows go on, in place.
        Each row counts as a token in `policy.tokens_forward`.
        """
        if keep is not None:
            self._compact(keep)
        if self._columns == self._layers[0].keys.shape[2]:
            self._grow()
        rows = self._alive
        self._policy.tokens_forward += rows
        for layer in self._layers:
            layer.rows, layer.column = rows, self._columns
        self._columns += 1
        positions = self._position[:rows].expand(self._family.axes, -1)[..., None]
        with decoding(self._model, self._shared) as mask:
            hidden = self._decoder(
                inputs_embeds=self._model.get_input_embeddings()(tokens[:, None]),
                attention_mask=mask,
                position_ids=self._family.position_ids(positions),
                past_key_values=self._cache,
                use_cache=True,
            ).last_hidden_state
        self._position[:rows] += 1
        return self._model.get_output_embeddings()(hidden[:, -1])

    def _compact(self, keep: Int[Tensor, " alive"]) -> None:
        self._alive = len(keep)
        slots = torch.nonzero(keep != torch.arange(len(keep), device=keep.device)).flatten()
        if len(slots):
            sources = keep[slots]
            for tensor in self._tensors():
                tensor[slots] = tensor[sources]
        self._shared.seat(self._prefix[: self._alive])

    def _grow(self) -> None:
        rows = self._alive
        for layer in self._layers:
            layer.keys = _with_columns(layer.keys[:rows], GROWTH)
            layer.values = _with_columns(layer.values[:rows], GROWTH)

    def _tensors(self) -> list[Tensor]:
        cached = [tensor for layer in self._layers for tensor in (layer.keys, layer.values)]
        return [self._prefix, self._position, *cached]


class _RowLayer(CacheLayerMixin):
    """One layer's keys and values of the rows' own tokens, allocated ahead.

    `rows` and `column` say where the next token is written.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.rows, self.column = keys.shape[0], 0
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys[: self.rows, :, self.column] = key_states[:, :, 0]
        self.values[: self.rows, :, self.column] = value_states[:, :, 0]
        end = self.column + 1
        return self.keys[: self.rows, :, :end], self.values[: self.rows, :, :end]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise AssertionError("a row cache is made for its rows")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.column + query_length, 0

    def get_seq_length(self) -> int:
        return self.column

    def get_max_length(self) -> int:
        return -1


def _empty(like: Float[Tensor, "prefixes heads columns head_dim"], rows: int) -> Float[Tensor, "rows heads _ head_dim"]:
    return like.new_empty(rows, like.shape[1], GROWTH, like.shape[3])


def _with_columns(
    tensor: Float[Tensor, "rows heads columns head_dim"], columns: int
) -> Float[Tensor, "rows heads _ _"]:
    """A copy with `columns` more columns."""
    more = tensor.new_empty(*tensor.shape[:2], columns, tensor.shape[3])
    return torch.cat([tensor, more], dim=2)
