"""A toy policy for the tests of views: every completion token has logits linear in the pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from saei.config import SelectConfig, ViewConfig
from saei.seeding import torch_generator
from saei.types import ByteImages
from saei.views import ViewContext


def entropy_of(logits: Tensor) -> Tensor:
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


@dataclass
class ToyPolicy:
    """Token id k has logits `heads[k](pixels of all images)`. Counts its calls with and without gradient."""

    heads: nn.ModuleList
    scale: float = 1.0
    plain_calls: int = field(default=0, init=False)
    grad_calls: int = field(default=0, init=False)

    def token_entropy(
        self, images: Sequence[Sequence[Tensor]], completions: Sequence[Sequence[Sequence[int]]], kept
    ) -> list[list[Tensor]]:
        self.grad_calls += torch.is_grad_enabled()
        self.plain_calls += not torch.is_grad_enabled()
        result = []
        for i, (group, texts) in enumerate(zip(images, completions, strict=True)):
            pixels = torch.cat([image.flatten() for image in group])
            row = []
            for j, text in enumerate(texts):
                entropy = torch.stack([entropy_of(self.heads[token](pixels)) for token in text]) * self.scale
                row.append(entropy if kept is None else entropy[kept[i][j]])
            result.append(row)
        return result

    def token_logprobs(
        self, images: Sequence[Sequence[Tensor]], completions: Sequence[Sequence[Sequence[int]]], kept
    ) -> list[list[Tensor]]:
        """Every token was sampled as class 0 of its head."""
        assert kept is None, "nothing asks for the log-probs of some tokens only"
        return [
            [
                torch.stack([self.heads[t](torch.cat([i.flatten() for i in group])).log_softmax(-1)[0] for t in text])
                for text in texts
            ]
            for group, texts in zip(images, completions, strict=True)
        ]


def random_policy(
    pixels: int, *, tokens: int = 9, vocabulary: int = 5, seed: int = 0, spread: float = 3.0
) -> ToyPolicy:
    generator = torch.Generator().manual_seed(seed)
    heads = nn.ModuleList([nn.Linear(pixels, vocabulary) for _ in range(tokens)])
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread / pixels**0.5)
    return ToyPolicy(heads)


def random_images(problems: int, *, size: int = 4, seed: int = 0, low: int = 16, high: int = 240) -> list[ByteImages]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randint(low, high, (3, size, size), generator=generator, dtype=torch.uint8)  # noqa: E731
    return [(draw(),) for _ in range(problems)]


def choosing(token_entropy: Callable) -> Callable:
    """The same, that may also be given a function which chooses the kept tokens by the entropies of all."""

    def entropies(images, completions, kept):
        if not callable(kept):
            return token_entropy(images, completions, kept)
        every = token_entropy(images, completions, None)
        chosen = kept([[tokens.detach() for tokens in row] for row in every])
        return [[t[mask] for t, mask in zip(row, masks, strict=True)] for row, masks in zip(every, chosen, strict=True)]

    return entropies


def make_context(
    token_entropy: Callable,
    images: Sequence[ByteImages],
    completions: Sequence[Sequence[Sequence[int]]],
    *,
    view: ViewConfig | None = None,
    select: SelectConfig | None = None,
    seed: int = 0,
    names: Sequence[str] | None = None,
    **more,
) -> ViewContext:
    return ViewContext(
        problem_ids=tuple(names or (f"p{i}" for i in range(len(images)))),
        images=tuple(images),
        completions=tuple(tuple(tuple(text) for text in texts) for texts in completions),
        token_entropy=choosing(token_entropy),
        view=view or ViewConfig(),
        select=select or SelectConfig(),
        generator=lambda purpose, problem_id: torch_generator(seed, purpose, 0, problem_id),
        **more,
    )
