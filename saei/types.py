"""The values that flow through one step: Problem -> Prompt -> Rollout -> Group.

No file here changes state, and none of these classes has behaviour beyond what its fields say. Axes: `P` problems,
`G` completions of a group, `T` completion tokens, `V` vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

# One tuple entry per image of the problem. Axes are "_" where the entries of a tuple may differ in size.
ByteImages = tuple[UInt8[Tensor, "3 _ _"], ...]
UnitImages = tuple[Float[Tensor, "3 _ _"], ...]
TextShift = Float[Tensor, "_ _"]
"""[prompt, width]: what is added to the input embeddings of a prompt; zero on image placeholders and special tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """An image question with a checkable answer.

    `images` are RGB, uint8, height x width x 3, as the source holds them (transparency already on white). `split` is
    the split it was drawn from; `kind` groups problems in reports (a question kind, a subject). `facts` are the
    source's other columns as it has them (a subject, a level, the answer before it was tidied), for official scoring.
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
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A problem as the policy reads it: token ids with every image placeholder expanded, and the resized 8-bit images.

    `images` is the one array from which both views, evaluation and every engine start (DESIGN 4.1). `question` is the
    (start, end) of the tokens that are the problem's own words; empty where that is not known.
    """

    problem_id: str
    token_ids: tuple[int, ...]
    images: ByteImages
    question: tuple[int, int] = (0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRequest:
    """Score given completions of one prompt under given images (teacher forcing).

    `images` are uint8, or float in [0, 1] when a gradient with respect to pixels is wanted. `kept[i]`, where given,
    marks the tokens of completion i whose scores are wanted; the LM head runs only there. `text_shift` is added to the
    input embeddings of the prompt.
    """

    prompt: Prompt
    images: ByteImages | UnitImages
    completions: tuple[tuple[int, ...], ...]
    kept: tuple[Bool[Tensor, " _"], ...] | None = None
    text_shift: TextShift | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenScores:
    """Per completion token (or per kept token), fp32: log-prob and entropy at the rollout temperature, entropy at 1.

    Entropies are full-vocabulary Shannon entropies in nats.
    """

    logprobs: Float[Tensor, " tokens"]
    entropy: Float[Tensor, " tokens"]
    entropy_t1: Float[Tensor, " tokens"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairScores:
    """One completion under its own image (P) and under the image of `score.view` (Q), per token, at the rollout
    temperature: log-prob and entropy under Q, and divergences in nats between the full distributions.
    """

    logprobs: Float[Tensor, " tokens"]
    entropy: Float[Tensor, " tokens"]
    jsd: Float[Tensor, " tokens"]
    kl: Float[Tensor, " tokens"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRequest:
    """Sample completions number `indices` of one prompt, seeing `images` (uint8) and, where given, moved text."""

    prompt: Prompt
    images: ByteImages
    indices: tuple[int, ...]
    text_shift: TextShift | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledCompletion:
    """What the sampler returns. `token_ids` include the end token when `finished`; otherwise the completion was cut.

    `sampler_logprobs` and `sampler_entropy` are of logits / temperature, before top-p and suppression, on the image
    that was seen; `removed_mass` is the probability that top-p and suppression took away at each position. From an
    engine in another process: they are the trainer's, `removed_mass` is NaN, and `engine_logprobs` are what the engine
    said of its tokens (NaN where it did not).
    """

    index: int
    token_ids: tuple[int, ...]
    sampler_logprobs: Float[Tensor, " tokens"]
    sampler_entropy: Float[Tensor, " tokens"]
    removed_mass: Float[Tensor, " tokens"]
    finished: bool
    engine_logprobs: Float[Tensor, " tokens"] | None = None


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
    text_shift: TextShift | None = None

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
    completions, on the image as it was and on the rounded image; NaN for views that read no entropy. `moved` is False
    where nothing changed. `image` numbers the moved images of a problem (0 unless view.adv_per is response).
    `l2_reference` is EgAS's own L2 for controls that must match it, `text_l2` the L2 norm of moved text embeddings.
    `kept` are the positions of the kept tokens in each earlier completion that the attack read.
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
    image: int = 0
    l2_reference: float = math.nan
    text_l2: float = math.nan
    kept: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewResult:
    """What the completions of one view see, and a ledger row for each moved input (none for views that only copy).

    `images[p]` holds one entry, shared by all completions of problem p, or one entry for each of them; `text_shifts[p]`
    moves the prompt's input embeddings.
    """

    images: Sequence[Sequence[ByteImages]]
    ledger: Sequence[AttackRow] = field(default_factory=tuple)
    text_shifts: Sequence[TextShift | None] | None = None


def to_unit(image: UInt8[Tensor, "3 height width"]) -> Float[Tensor, "3 height width"]:
    """8-bit levels to [0, 1], float32: the only scale on which an attack works."""
    return image.to(torch.float32) / 255.0


def to_bytes(image: Float[Tensor, "3 height width"]) -> UInt8[Tensor, "3 height width"]:
    """[0, 1] to 8-bit levels by rounding; truncation would lose levels (methods.md 3.5)."""
    return (image.detach().clamp(0, 1) * 255.0).round().to(torch.uint8)
