"""The floor of a GRPO step: its tokens through plain forward and backward passes of the stock model, and nothing else.

Every prompt is read once, every completion token but the last is fed once, and the update passes each group once with
its prompt once; attention to the cache, sampling, rewards and the optimizer are free. What is measured are plain calls
of the stock model on rows of that size: no packing, no mask, no cache, no padding.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.turn import Turn, stopwatch
from saei.policy import Policy
from saei.types import Prompt


class Floor:
    """Plain passes of `model`, the stock one, over as many tokens as a step has. Called, it has its turn.

    Of `policy` only what makes pixel values is taken.
    """

    def __init__(self, model: Any, policy: Policy, prompts: Sequence[Prompt], completions: int, length: int) -> None:
        self._model = model
        self._image_token = policy.image_token_id
        self._completions, self._length = completions, length
        image = prompts[0].images[0]
        self._pixels, self._grid = policy.codec.patchify(image), policy.codec.grid_thw(image)
        self._prompt = torch.tensor(prompts[0].token_ids)
        self._rows = len(prompts)
        text = self._prompt[self._prompt != self._image_token]
        self._answers = text[torch.arange(completions * length) % len(text)]
        prefixes = sum(len(prompt.token_ids) for prompt in prompts)
        self.tokens = {
            "prefill": prefixes,
            "decode": len(prompts) * completions * (length - 1),
            "update": prefixes + len(prompts) * completions * length,
        }

    def __call__(self) -> Turn:
        """Of each kind of pass the faster arrangement: all rows at once, or one after the other."""
        rows = {"prefill": self._prompt, "update": torch.cat([self._prompt, self._answers])}
        taken = {"decode": self._decode()}
        for phase, one in (("prefill", self._forward), ("update", self._backward)):
            wall, cpu = min(self._passes(one, rows[phase], at_once) for at_once in {self._rows, 1})
            # the first prompt stands for all, and others may be a few tokens longer or shorter
            share = self.tokens[phase] / (len(rows[phase]) * self._rows)
            taken[phase] = wall * share, cpu * share
        return Turn(
            seconds=sum(wall for wall, _ in taken.values()),
            cpu_seconds=sum(cpu for _, cpu in taken.values()),
            phases={phase: taken[phase][0] for phase in self.tokens},
            tokens=self.tokens,
        )

    def _passes(self, one: Callable[[dict[str, Any]], None], row: Tensor, at_once: int) -> tuple[float, float]:
        """Seconds of all rows, `at_once` in a pass."""
        inputs = {
            "input_ids": row.repeat(at_once, 1),
            "mm_token_type_ids": (row == self._image_token).long().repeat(at_once, 1),
            "pixel_values": self._pixels.repeat(at_once, 1),
            "image_grid_thw": self._grid.repeat(at_once, 1),
        }
        passed = stopwatch()
        for _ in range(self._rows // at_once):
            one(inputs)
        return passed()

    def _forward(self, inputs: dict[str, Any]) -> None:
        with torch.no_grad():
            self._model(**inputs, use_cache=False, logits_to_keep=1)

    def _backward(self, inputs: dict[str, Any]) -> None:
        """A loss on the completion tokens alone: the head runs where ours does."""
        targets = inputs["input_ids"][:, -len(self._answers) :]
        logits = self._model(**inputs, use_cache=False, logits_to_keep=len(self._answers)).logits
        cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        self._model.zero_grad(set_to_none=True)

    def _decode(self) -> tuple[float, float]:
        tokens = self._answers[:1].repeat(self._rows * self._completions, 1)
        passed = stopwatch()
        with torch.no_grad():
            for _ in range(self._length - 1):
                self._model(input_ids=tokens, use_cache=False)
        return passed()
