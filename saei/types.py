"""The values that flow through one step: Problem -> Prompt -> Rollout -> Group.

No file here changes state, and none of these classes has behaviour beyond what its fields say. Axes: `P` problems,
`G` completions of a group, `T` completion tokens, `V` vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

# One tuple entry per image of the problem. Axes are "_" where the entries of a tuple may differ in size.
ByteImages = tuple[UInt8[Tensor, "3 _ _"], ...]
UnitImages = tuple[Float[Tensor, "3 _ _"], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """An image question with a checkable answer.

    `images` are RGB, uint8, height x width x 3, as the source holds them (transparency already on white). `split` is
    the split it was drawn from; `kind` groups problems in reports (a question kind, a subject).
    """

    problem_id: str
    images: tuple[UInt8[np.ndarray, "_ _ 3"], ...]
    question: str
    answer: str
    choices: tuple[str, ...] | None = None
    answer_type: Literal["number", "math", "choice", "text"] = "math"
    kind: str = ""
    source: str = ""
    split: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A problem as the policy reads it: token ids with every image placeholder expanded, and the resized 8-bit images.

    `images` is the one array from which both views, evaluation and every engine start (DESIGN 4.1).
    """

    problem_id: str
    token_ids: tuple[int, ...]
    images: ByteImages


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRequest:
    """Score given completions of one prompt under given images (teacher forcing).

    `images` are uint8, or float in [0, 1] when a gradient with respect to pixels is wanted. `kept[i]`, where given,
    marks the tokens of completion i whose scores are wanted; the LM head runs only there.
    """

    prompt: Prompt
    images: ByteImages | UnitImages
    completions: tuple[tuple[int, ...], ...]
    kept: tuple[Bool[Tensor, " _"], ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenScores:
    """Per completion token (or per kept token), fp32: log-prob and entropy at the rollout temperature, entropy at 1.

    Entropies are full-vocabulary Shannon entropies in nats.
    """

    logprobs: Float[Tensor, " tokens"]
    entropy: Float[Tensor, " tokens"]
    entropy_t1: Float[Tensor, " tokens"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRequest:
    """Sample completions number `indices` of one prompt, seeing `images` (uint8)."""

    prompt: Prompt
    images: ByteImages
    indices: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledCompletion:
    """What the sampler returns. `token_ids` include the end token when `finished`; otherwise the completion was cut.

    `sampler_logprobs` and `sampler_entropy` are of logits / temperature, before top-p and suppression, on the image
    that was seen; `removed_mass` is the probability that top-p and suppression took away at each position.
    """

    index: int
    token_ids: tuple[int, ...]
    sampler_logprobs: Float[Tensor, " tokens"]
    sampler_entropy: Float[Tensor, " tokens"]
    removed_mass: Float[Tensor, " tokens"]
    finished: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One completion of one problem under one view, with its evidence."""

    problem_id: str
    view: str
    index: int
    completion: SampledCompletion
    text: str
    images: ByteImages
    image_hash: str

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.completion.token_ids

    @property
    def key(self) -> tuple[str, int]:
        """Names the completion within its step."""
        return self.problem_id, self.index


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """All rollouts of one problem, every view, in group-plan order."""

    problem: Problem
    prompt: Prompt
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackRow:
    """The ledger of one image attack (per problem). Pixel norms are in [0, 1] units, after rounding to 8 bits.

    `entropy_before`/`entropy_after` are the mean entropy of the kept tokens, teacher-forced on the earlier
    completions, on the image as it was and on the rounded image. `moved` is False where the objective had no gradient.
    """

    problem_id: str
    view: str
    linf: float
    l2: float
    touched_share: float
    zero_gradient_share: float
    clipped_share: float
    entropy_before: float
    entropy_after: float
    tokens_kept: int
    tokens_total: int
    moved: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewResult:
    """The images of each problem under one view, and a ledger row for each problem (none for views that only copy)."""

    images: Sequence[ByteImages]
    ledger: Sequence[AttackRow] = field(default_factory=tuple)


def to_unit(image: UInt8[Tensor, "3 height width"]) -> Float[Tensor, "3 height width"]:
    """8-bit levels to [0, 1], float32: the only scale on which an attack works."""
    return image.to(torch.float32) / 255.0


def to_bytes(image: Float[Tensor, "3 height width"]) -> UInt8[Tensor, "3 height width"]:
    """[0, 1] to 8-bit levels by rounding; truncation would lose levels (methods.md 3.5)."""
    return (image.detach().clamp(0, 1) * 255.0).round().to(torch.uint8)
