"""Ways from hidden states to log-probs, entropies and their gradients: ours, the plain one, TRL's, Liger's.

Run as a program it is one turn of one of them in a fresh process, which prints the bytes that it held:

    python -m benchmarks.heads ours '{"tokens": 4096, "vocabulary": 151936, "width": 1024, ...}'
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.turn import growth
from saei.cli import Told
from saei.head import head_scores

Values = tuple[Tensor, Tensor]
Head = Callable[[Tensor, Tensor, Tensor, float], Values]
"""(states, weight, targets, temperature) -> (log-probs of the targets, entropies), both with gradient."""
TOLERANCE = {"float32": (1e-4, 1e-3), "bfloat16": (1e-1, 5e-2)}
"""By type of the weights: how far values, and gradients, may lie apart, as a share of the largest.

The naive head is the one that is off: torch's log_softmax on a CPU adds a row up in float32, and the probabilities of
151,936 tokens then sum to 1 + 1e-5."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """What is computed; `dtype` is that of states and weight, the softmax of all is in float32."""

    tokens: int
    vocabulary: int
    width: int
    temperature: float
    dtype: str
    device: str
    threads: int


class Missing(Exception):
    """This head cannot run here; the message says why."""


def ours() -> Head:
    """`saei.head`."""

    def scores(states: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> Values:
        head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        head.weight = weight  # pyright: ignore[reportAttributeAccessIssue]
        return head_scores(head, states, targets, temperature=temperature, entropy_grad=True)[:2]

    return scores


def naive() -> Head:
    """All logits, their log-softmax, and autograd."""

    def scores(states: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> Values:
        logits = (states @ weight.t()).float()
        log_p = torch.log_softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)
        del logits
        return log_p.gather(-1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(dim=-1)

    return scores


def trl() -> Head:
    """The function behind the fused head of TRL's GRPOTrainer, with the tile and the outputs that the trainer asks."""
    try:
        from trl.kernels.chunked_logprob import ChunkedLogProbFunction
        from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE  # its backward pass would import this module
    except ImportError as error:
        raise Missing(f"needs trl 1.16: {error}") from error

    def scores(states: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> Values:
        values: Any = ChunkedLogProbFunction.apply(
            states, weight, None, targets, temperature, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ("log_probs", "entropy")
        )
        return values[0], values[1]

    return scores


def liger() -> Head:
    """Liger's scaled cross entropy, the one of its heads that returns entropies with a gradient."""
    try:
        from liger_kernel.ops import (  # pyright: ignore[reportMissingImports]
            LigerFusedLinearScaledCrossEntropyFunction,
        )
    except ImportError as error:
        raise Missing(f"needs liger-kernel and Triton, which are made for GPUs: {error}") from error

    def scores(states: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> Values:
        losses, entropies = LigerFusedLinearScaledCrossEntropyFunction.apply(
            states, weight, targets, temperature, return_entropy=True
        )
        return -losses, entropies

    return scores


HEADS: dict[str, Callable[[], Head]] = {"naive": naive, "ours": ours, "TRL": trl, "Liger": liger}
"""By the name that the tables use; raises Missing where it cannot run."""


class Case:
    """Random states, weight, targets and factors of the loss, the same for every head."""

    def __init__(self, size: Size) -> None:
        self.size = size
        generator = torch.Generator(device=size.device).manual_seed(0)
        options: Any = {"device": size.device, "dtype": getattr(torch, size.dtype)}
        # logits of standard deviation 4, whose entropy is neither 0 nor that of a uniform distribution
        weight = torch.empty(size.vocabulary, size.width, **options).normal_(
            0, 4 * size.width**-0.5, generator=generator
        )
        self.weight = nn.Parameter(weight)
        self.states = torch.empty(size.tokens, size.width, **options).normal_(generator=generator).requires_grad_()
        self.targets = torch.randint(size.vocabulary, (size.tokens,), generator=generator, device=size.device)
        self.factors = torch.empty(2, size.tokens, device=size.device).normal_(generator=generator)

    def turn(self, head: Head) -> tuple[Tensor, ...]:
        """Log-probs and entropies, and the gradients of states and weight of a loss of both."""
        logprobs, entropies = head(self.states, self.weight, self.targets, self.size.temperature)
        loss = (self.factors[0] * logprobs).sum() + (self.factors[1] * entropies).sum()
        gradients = torch.autograd.grad(loss, [self.states, self.weight])
        if self.size.device != "cpu":
            torch.cuda.synchronize()
        return logprobs.detach(), entropies.detach(), *gradients


def refuse_other_results(name: str, found: tuple[Tensor, ...], expected: tuple[Tensor, ...], dtype: str) -> None:
    """Raise Told unless a head's values and gradients are the expected ones within `TOLERANCE`."""
    of_values, of_gradients = TOLERANCE[dtype]
    what = {"log-probs": of_values, "entropies": of_values, "d states": of_gradients, "d weight": of_gradients}
    for (quantity, tolerance), own, other in zip(what.items(), found, expected, strict=True):
        gap = float((own.float() - other.float()).abs().max() / other.float().abs().max())
        if not gap <= tolerance:
            raise Told(f"{name}: {quantity} differ from the naive head's by {gap:.1e} of the largest: not equal work")


def digest(found: tuple[Tensor, ...]) -> list[float]:
    """One number for each result, which heads in processes of their own can be compared by."""
    return [float(torch.linalg.vector_norm(one.flatten(), dtype=torch.float64)) for one in found]


def measured(name: str, size: Size) -> dict[str, Any]:
    """Bytes that one turn holds at its peak beyond states, weight and targets, its seconds, a digest of its results."""
    torch.set_num_threads(size.threads)
    try:
        head = HEADS[name]()
    except Missing as error:
        return {"missing": str(error)}
    tiny = Case(Size(**{**asdict(size), "tokens": 8, "vocabulary": 64}))
    tiny.turn(head)  # code is loaded, libraries have their own buffers
    case = Case(size)
    grown = _growth(size.device)
    start = time.perf_counter()
    found = case.turn(head)
    seconds, held = time.perf_counter() - start, grown()
    if held is None:
        return {"missing": "the system does not say how much memory a process holds"}
    gradients = sum(one.nbytes for one in found[2:])
    return {"bytes": held, "gradient_bytes": gradients, "seconds": seconds, "digest": digest(found)}


def _growth(device: str) -> Callable[[], int | None]:
    """What says by how many bytes the highest number held since now is above what is held now."""
    if device == "cpu":
        megabytes = growth()
        return lambda: None if (grown := megabytes()) is None else round(grown * 2**20)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    return lambda: torch.cuda.max_memory_allocated() - before


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], Size(**json.loads(sys.argv[2])))))
