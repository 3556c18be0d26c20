"""Log-probs of given tokens and entropies from hidden states, without ever holding the logits of all tokens.

A plain linear head is computed tile by tile: some tokens against some of the vocabulary, folded into running sums as
soon as it is there (an online softmax). Of a tile nothing is kept; the backward pass makes its logits again and turns
them into their gradient in place, which has a closed form:

    d log p[t] / d logits = (onehot[t] - p) / T        d H / d logits = -p (log p + H) / T

Tiles are small enough for a CPU's cache, so that the softmax costs no traffic to memory. Any other head (with a bias,
an adapter, hooks, a sharded weight) is called as the module that it is, chunk by chunk, and computed again in the
backward pass by autograd. Softmax is in float32, or in float64 for a float64 model.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

TILES = {"cpu": (512, 2048)}
"""Tokens and vocabulary entries of a tile, by kind of device; `WIDE_TILE` on every other."""
WIDE_TILE = (4096, 8192)
KEPT_VALUES = 2**24
"""So many logits, in numbers, are kept for the backward pass and not made again (64 MB in float32)."""
CHUNK_VALUES = 2**26
"""Logits held at a time of a head that is called as a module, in numbers (256 MB in float32)."""

Scores = tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"], Float[Tensor, " tokens"]]


def head_scores(
    head: nn.Module,
    states: Float[Tensor, "tokens width"],
    targets: Int[Tensor, " tokens"],
    *,
    temperature: float,
    entropy_grad: bool,
) -> Scores:
    """Log-prob of the target and entropy at `temperature`, and entropy at temperature 1 (never with gradient).

    With gradient where gradients are enabled; `entropy_grad` False computes entropies without.
    """
    if not is_plain(head, states):
        return _module_scores(head, states, targets, temperature=temperature, entropy_grad=entropy_grad)
    weight: Any = head.weight
    wanted = torch.is_grad_enabled() and (states.requires_grad or weight.requires_grad)
    keep = wanted and len(states) * len(weight) <= KEPT_VALUES
    logprobs, entropy, entropy_t1 = _TiledHead.apply(states, weight, targets, temperature, entropy_grad, keep)  # pyright: ignore
    return logprobs, entropy, entropy.detach() if entropy_t1 is None else entropy_t1


def is_plain(head: nn.Module, states: Tensor) -> bool:
    """Is calling the head one product of the states with a weight that is here, and nothing else?"""
    return (
        type(head) is nn.Linear
        and head.bias is None
        and type(head.weight) in (nn.Parameter, Tensor)  # not one that is sharded or quantized
        and head.weight.dtype == states.dtype
        and head.weight.device == states.device
        and not (head._forward_hooks or head._forward_pre_hooks or head._backward_hooks or head._backward_pre_hooks)
        and "forward" not in vars(head)
        and not torch.is_autocast_enabled(states.device.type)
    )


def softmax_scores(
    head: nn.Module,
    states: Float[Tensor, "tokens width"],
    targets: Int[Tensor, " tokens"],
    *,
    temperature: float,
    entropy_grad: bool,
) -> Scores:
    """As `head_scores`, by the softmax of all logits at once and autograd."""
    logits = wide(head(states))
    log_p = torch.log_softmax(logits / temperature, dim=-1)
    logprobs = log_p.gather(-1, targets[:, None])[:, 0]
    entropy = entropy_of(log_p if entropy_grad else log_p.detach())
    if temperature == 1.0:
        return logprobs, entropy, entropy.detach()
    return logprobs, entropy, entropy_of(torch.log_softmax(logits.detach(), dim=-1))


def tile_bytes(dtype: torch.dtype, device: str) -> int:
    """Bytes of buffers at most, kept logits included, that a plain head of this type needs beyond its gradients."""
    tokens, entries = TILES.get(device, WIDE_TILE)
    size = _wide_type(dtype).itemsize
    narrow = dtype.itemsize if dtype.itemsize < size else 0
    return tokens * entries * (2 * size + narrow) + KEPT_VALUES * size


def wide(logits: Tensor) -> Tensor:
    """The logits in the type of the softmax."""
    return logits.to(_wide_type(logits.dtype))


def entropy_of(log_p: Float[Tensor, "tokens vocabulary"]) -> Float[Tensor, " tokens"]:
    """Shannon entropy in nats; 0 * log 0 counts as 0 because exp underflows before the product can be NaN."""
    return -(log_p.exp() * log_p).sum(dim=-1)


def _wide_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _module_scores(head: nn.Module, states: Tensor, targets: Tensor, **options: Any) -> Scores:
    weight: Any = head.weight
    size = max(1, CHUNK_VALUES // weight.shape[0])
    chunks = []
    for some, ids in zip(states.split(size), targets.split(size), strict=True):
        if len(states) > size and torch.is_grad_enabled():
            chunk = checkpoint(softmax_scores, head, some, ids, use_reentrant=False, **options)
        else:
            chunk = softmax_scores(head, some, ids, **options)
        chunks.append(chunk)
    logprobs, entropy, entropy_t1 = (torch.cat(values) for values in zip(*chunks, strict=True))
    return logprobs, entropy, entropy_t1


class _TiledHead(Function):
    """`head_scores` of a plain head; its third value is None at temperature 1, where it is the second."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        states, weight, targets, temperature, entropy_grad, keep = arguments
        ctx.set_materialize_grads(False)
        tiles = _Tiles(states, weight, keep=keep)
        sums = _Sums(states, temperature)
        chosen = sums.highest.new_zeros(len(states))
        for columns in tiles.columns():
            for rows in tiles.rows():
                logits = tiles.logits(rows, columns)
                inside, places = _places(targets[rows], columns)
                chosen[rows] = torch.where(inside, logits.gather(-1, places)[:, 0], chosen[rows])
                sums.fold(rows, logits, *tiles.scratch(logits))
        logprobs = (chosen - sums.highest) / temperature - sums.log_mass()
        entropy, entropy_t1 = sums.entropies()
        level = sums.highest + temperature * sums.log_mass()
        ctx.temperature = temperature
        ctx.save_for_backward(states, weight, targets, entropy, level, tiles.kept)
        without = [entropy_t1] if entropy_grad else [entropy, entropy_t1]
        ctx.mark_non_differentiable(*(value for value in without if value is not None))
        return logprobs, entropy, entropy_t1

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        states, weight, targets, entropy, level, kept = ctx.saved_tensors
        of_logprobs, of_entropy, _ = gradients
        to_states, to_weight = ctx.needs_input_grad[:2]
        tiles = _Tiles(states, weight, kept=kept)
        rowwise = _Gradient(of_logprobs, of_entropy, entropy, ctx.temperature)
        d_states = torch.zeros_like(states, dtype=_wide_type(states.dtype)) if to_states else None
        d_weight = torch.zeros_like(weight) if to_weight else None
        for columns in tiles.columns():
            # the sum over tokens is rounded to the weight's type once
            d_columns = None if d_weight is None else d_weight[columns].to(_wide_type(weight.dtype))
            for rows in tiles.rows():
                logits = tiles.logits(rows, columns)
                log_p, scratch = tiles.scratch(logits)
                torch.sub(logits, level[rows, None], out=log_p)
                d_logits = rowwise.of_tile(rows, log_p, scratch, *_places(targets[rows], columns))
                if d_states is not None:
                    _add_product(d_states[rows], d_logits, weight[columns])
                if d_columns is not None:
                    _add_product(d_columns, d_logits.t(), states[rows])
            if d_weight is not None and d_columns is not None and d_weight.dtype != d_columns.dtype:
                d_weight[columns] = d_columns
        return None if d_states is None else d_states.to(states.dtype), d_weight, None, None, None, None


class _Tiles:
    """The tiles of [tokens, vocabulary], their logits in the type of the softmax, and two buffers to work in.

    `kept`: the logits of all tokens, from an earlier pass; `keep`: keep those of this one.
    """

    def __init__(self, states: Tensor, weight: Tensor, *, kept: Tensor | None = None, keep: bool = False) -> None:
        self._states, self._weight, self._ready = states, weight, kept is not None
        dtype = _wide_type(states.dtype)
        self.kept = states.new_empty((len(states), len(weight)), dtype=dtype) if keep else kept
        tokens, entries = TILES.get(states.device.type, WIDE_TILE)
        self._tokens, self._entries = min(tokens, len(states)), min(entries, len(weight))
        values = self._tokens * self._entries
        self._buffers = states.new_empty((2, values), dtype=dtype)
        self._narrow = None if states.dtype == dtype else states.new_empty(values)

    def columns(self) -> Iterator[slice]:
        for start in range(0, len(self._weight), self._entries):
            yield slice(start, min(start + self._entries, len(self._weight)))

    def rows(self) -> Iterator[slice]:
        for start in range(0, len(self._states), max(1, self._tokens)):
            yield slice(start, min(start + self._tokens, len(self._states)))

    def logits(self, rows: slice, columns: slice) -> Tensor:
        """Valid until the next call, and to be written to where `scratch` gives it back."""
        tokens, entries = rows.stop - rows.start, columns.stop - columns.start
        tile = _view(self._buffers[0], tokens, entries) if self.kept is None else self.kept[rows, columns]
        if self._ready:
            return tile
        states, weight = self._states[rows], self._weight[columns].t()
        if self._narrow is None:
            return torch.mm(states, weight, out=tile)
        return tile.copy_(torch.mm(states, weight, out=_view(self._narrow, tokens, entries)))

    def scratch(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Two buffers in the shape of these logits, the first of which is their own unless they are kept."""
        first, second = (_view(buffer, *logits.shape) for buffer in self._buffers)
        return first, second


class _Sums:
    """What the softmax needs of the tiles seen so far, for each token: the highest logit, and at temperature 1 and at
    `temperature` the sums of e = exp((logit - highest) / temperature) and of e log e.
    """

    def __init__(self, states: Tensor, temperature: float) -> None:
        count, dtype = len(states), _wide_type(states.dtype)
        # far below any logit, and finite, because -inf times a sum of 0 would be NaN
        self.highest = states.new_full((count,), -1e30, dtype=dtype)
        steps = (1.0,) if temperature == 1.0 else (1.0, temperature)
        self._sums: list[tuple[float, Tensor, Tensor]] = []
        for step in steps:
            masses, moments = states.new_zeros((2, count), dtype=dtype)
            self._sums.append((step, masses, moments))

    def fold(self, rows: slice, logits: Tensor, shifted: Tensor, scratch: Tensor) -> None:
        """Add a tile; `shifted` may be the logits themselves."""
        highest = torch.maximum(self.highest[rows], logits.amax(dim=-1))
        drop = self.highest[rows] - highest
        self.highest[rows] = highest
        torch.sub(logits, highest[:, None], out=shifted)
        for temperature, masses, moments in self._sums:
            if temperature != 1.0:  # the last one
                shifted /= temperature
                drop = drop / temperature
            mass, moment, shrunk = masses[rows], moments[rows], drop.exp()
            torch.exp(shifted, out=scratch)
            moment.addcmul_(drop, mass).mul_(shrunk)
            mass.mul_(shrunk).add_(scratch.sum(dim=-1))
            moment.add_(scratch.mul_(shifted).sum(dim=-1))

    def log_mass(self) -> Tensor:
        """At `temperature`."""
        return self._sums[-1][1].log()

    def entropies(self) -> tuple[Tensor, Tensor | None]:
        """At `temperature`, and at 1 where that is another."""
        values = [mass.log() - moment / mass for _, mass, moment in self._sums]
        return values[-1], values[0] if len(values) > 1 else None


class _Gradient:
    """The gradient of the logits: p (slope log p + constant), and `at_target` more at the target."""

    def __init__(
        self, of_logprobs: Tensor | None, of_entropy: Tensor | None, entropy: Tensor, temperature: float
    ) -> None:
        zeros = torch.zeros_like(entropy)
        self._temperature = temperature
        self._at_target = None if of_logprobs is None else of_logprobs / temperature
        self._slope = None if of_entropy is None else of_entropy / -temperature
        constant = zeros if self._at_target is None else -self._at_target
        self._constant = constant if self._slope is None else constant + self._slope * entropy

    def of_tile(self, rows: slice, log_p: Tensor, scratch: Tensor, inside: Tensor, places: Tensor) -> Tensor:
        """`log_p` is still times the temperature; it and `scratch` are overwritten."""
        if self._temperature != 1.0:
            log_p /= self._temperature
        p, constant = torch.exp(log_p, out=scratch), self._constant[rows, None]
        if self._slope is None:
            gradient = p.mul_(constant)
        else:
            gradient = log_p.mul_(self._slope[rows, None]).add_(constant).mul_(p)
        if self._at_target is not None:
            gradient.scatter_add_(1, places, (self._at_target[rows] * inside)[:, None])
        return gradient


def _places(targets: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Is each target among these vocabulary entries, and as which of them, [tokens, 1]; any one where it is not."""
    places = targets - columns.start
    last = columns.stop - columns.start - 1
    return (places >= 0) & (places <= last), places.clamp(0, last)[:, None]


def _view(buffer: Tensor, rows: int, columns: int) -> Tensor:
    return buffer[: rows * columns].view(rows, columns)


def _add_product(total: Tensor, gradient: Tensor, factor: Tensor) -> None:
    """Add `gradient @ factor` to `total`, whose type is that of the softmax, without rounding the product before."""
    if factor.dtype == total.dtype:
        total.addmm_(gradient, factor)
    elif total.is_cuda:
        torch.addmm(total, gradient.to(factor.dtype), factor, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(gradient, factor.to(total.dtype))
