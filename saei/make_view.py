"""From a view's name to the inputs that its completions see: build what the view may read, run it, check its budget."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saei.config import Config
from saei.policy import Policy
from saei.rollout import GroupsInProgress
from saei.score_views import SCORE_VIEWS
from saei.scoring import Choice
from saei.seeding import torch_generator
from saei.token_scores import SCORES
from saei.types import AttackRow, ByteImages, Prompt, ScoreRequest, TextShift, TokenScores
from saei.views import VIEWS, ViewContext, check_budget

Thresholds = tuple[float, float] | None


def make_view(
    policy: Policy,
    progress: GroupsInProgress,
    view: str,
    count: int,
    config: Config,
    step: int,
    strength: float = 1.0,
    thresholds: Thresholds = None,
) -> None:
    """Compute the inputs of `view` from what was sampled so far, a chunk of problems at a time; fill the ledger.

    Chunks hold as many problems as one scoring pass has room for, so that the attack's memory does not grow with the
    step. No parameter gets a gradient, and the L-infinity budget is checked here, not trusted. With `view.only_mixed`
    an attack leaves problems alone whose earlier completions all earned the same.
    """
    entry = VIEWS[view]
    images: list[Sequence[ByteImages]] = [[prompt.images] for prompt in progress.prompts]
    shifts: list[TextShift | None] = [None] * len(images)
    spared = _spared(progress) if entry.attacks and config.view.only_mixed else set()
    with policy.frozen():
        for chunk in _chunks(progress, config.optim.pack_tokens, spared):
            result = entry.make(_context(policy, progress, chunk, count, config, step, strength, thresholds))
            for i, position in enumerate(chunk):
                for moved in result.images[i]:
                    check_budget(progress.prompts[position].images, moved, entry.reach(config.view, strength))
                images[position] = list(result.images[i])
                shifts[position] = None if result.text_shifts is None else result.text_shifts[i]
            progress.ledger += result.ledger
    progress.ledger += [_untouched(progress.prompts[position].problem_id, view) for position in sorted(spared)]
    progress.images[view] = images
    progress.text_shifts[view] = shifts


def _spared(progress: GroupsInProgress) -> set[int]:
    """Problems whose completions so far have equal rewards."""
    return {
        position
        for position, rollouts in enumerate(progress.rollouts)
        if len({progress.rewards[rollout.key] for rollout in rollouts}) == 1
    }


def _untouched(problem_id: str, view: str) -> AttackRow:
    return AttackRow(
        problem_id=problem_id,
        view=view,
        linf=0.0,
        l2=0.0,
        touched_share=0.0,
        zero_gradient_share=0.0,
        clipped_share=0.0,
        entropy_before=math.nan,
        entropy_after=math.nan,
        tokens_kept=0,
        tokens_total=0,
        moved=False,
    )


def _chunks(progress: GroupsInProgress, pack_tokens: int, spared: set[int]) -> list[list[int]]:
    """Problems, in order, grouped so that the packed tokens of a chunk stay near `pack_tokens`."""
    chunks: list[list[int]] = []
    used = 0
    for position, prompt in enumerate(progress.prompts):
        if position in spared:
            continue
        tokens = len(prompt.token_ids) + sum(len(rollout.token_ids) for rollout in progress.rollouts[position])
        if not chunks or used + tokens > pack_tokens:
            chunks.append([])
            used = 0
        chunks[-1].append(position)
        used += tokens
    return chunks


def other_images(
    prompt: Prompt, images: ByteImages, indices: Sequence[int], config: Config, step: int
) -> list[ByteImages]:
    """`images` under `score.view`, where completions number `indices` are only scored: one for all, or one for each."""
    draws = indices if config.score.per == "response" else (0,)
    return [
        SCORE_VIEWS[config.score.view](
            images, config.score, torch_generator(config.seed, "score", step, prompt.problem_id, draw)
        )
        for draw in draws
    ]


def _context(
    policy: Policy,
    progress: GroupsInProgress,
    chunk: Sequence[int],
    count: int,
    config: Config,
    step: int,
    strength: float,
    thresholds: Thresholds,
) -> ViewContext:
    prompts = [progress.prompts[position] for position in chunk]
    earlier = [progress.rollouts[position] for position in chunk]
    scored = _Scored(policy, prompts, config, step)
    return ViewContext(
        problem_ids=tuple(prompt.problem_id for prompt in prompts),
        images=tuple(prompt.images for prompt in prompts),
        completions=tuple(tuple(rollout.token_ids for rollout in rollouts) for rollouts in earlier),
        right=tuple(
            tuple(r.key in progress.grades and progress.grades[r.key].accuracy == 1 for r in rollouts)
            for rollouts in earlier
        ),
        token_entropy=scored.entropy,
        token_logprobs=scored.logprobs,
        token_scores=scored.selection_scores,
        text_entropy=scored.text_entropy,
        questions=tuple(policy.question_mask(prompt) for prompt in prompts),
        embeddings=scored.embeddings,
        channel_std=policy.codec.std,
        view=config.view,
        select=config.select,
        strength=strength,
        count=count,
        thresholds=thresholds,
        generator=lambda purpose, problem_id: torch_generator(config.seed, purpose, step, problem_id),
    )


class _Scored:
    """What a view may ask of the policy about one chunk of problems; sequences are indexed by problem."""

    def __init__(self, policy: Policy, prompts: Sequence[Prompt], config: Config, step: int) -> None:
        self.policy, self.prompts, self.config, self.step = policy, prompts, config, step

    def _score(
        self,
        images: Sequence[Sequence[Tensor]],
        completions: Sequence[Sequence[tuple[int, ...]]],
        kept: Sequence[Sequence[Bool[Tensor, " _"]]] | None,
        shifts: Sequence[TextShift | None] | None = None,
        entropy_grad: bool = False,
    ) -> list[list[TokenScores]]:
        rollout, optim = self.config.rollout, self.config.optim
        return self.policy.score(
            self._requests(images, completions, kept, shifts),
            temperature=rollout.temperature,
            pack_tokens=optim.pack_tokens,
            entropy_grad=entropy_grad,
        )

    def _requests(
        self,
        images: Sequence[Sequence[Tensor]],
        completions: Sequence[Sequence[tuple[int, ...]]],
        kept: Sequence[Sequence[Bool[Tensor, " _"]]] | None,
        shifts: Sequence[TextShift | None] | None,
    ) -> list[ScoreRequest]:
        return [
            ScoreRequest(
                prompt=prompt,
                images=tuple(images[i]),
                completions=tuple(completions[i]),
                kept=None if kept is None else tuple(kept[i]),
                text_shift=None if shifts is None else shifts[i],
            )
            for i, prompt in enumerate(self.prompts)
        ]

    def entropy(
        self,
        images: Sequence[Sequence[Float[Tensor, "3 _ _"]]],
        completions: Sequence[Sequence[tuple[int, ...]]],
        kept: Sequence[Sequence[Bool[Tensor, " _"]]] | Choice | None,
    ) -> list[list[Float[Tensor, " _"]]]:
        if callable(kept):
            requests = self._requests(images, completions, None, None)
            rollout, optim = self.config.rollout, self.config.optim
            scores = self.policy.score_chosen(
                requests, kept, temperature=rollout.temperature, pack_tokens=optim.pack_tokens
            )
        else:
            scores = self._score(images, completions, kept, entropy_grad=True)
        return [[score.entropy for score in group] for group in scores]

    def logprobs(
        self,
        images: Sequence[Sequence[Float[Tensor, "3 _ _"]]],
        completions: Sequence[Sequence[tuple[int, ...]]],
        kept: Sequence[Sequence[Bool[Tensor, " _"]]] | None,
    ) -> list[list[Float[Tensor, " _"]]]:
        return [[score.logprobs for score in group] for group in self._score(images, completions, kept)]

    def text_entropy(
        self,
        shifts: Sequence[TextShift | None],
        completions: Sequence[Sequence[tuple[int, ...]]],
        kept: Sequence[Sequence[Bool[Tensor, " _"]]] | None,
    ) -> list[list[Float[Tensor, " _"]]]:
        clean = [prompt.images for prompt in self.prompts]
        scores = self._score(clean, completions, kept, shifts, entropy_grad=True)
        return [[score.entropy for score in group] for group in scores]

    def embeddings(self, number: int) -> Float[Tensor, "prompt width"]:
        ids = torch.tensor(self.prompts[number].token_ids, device=self.policy.device)
        return self.policy.model.get_input_embeddings()(ids).detach()

    def selection_scores(
        self, images: Sequence[Sequence[Tensor]], completions: Sequence[Sequence[tuple[int, ...]]]
    ) -> list[list[Float[Tensor, " _"]]]:
        """`select.score` of every token of every completion."""
        requests, others = [], []
        for prompt, own, texts in zip(self.prompts, images, completions, strict=True):
            requests.append(ScoreRequest(prompt=prompt, images=tuple(own), completions=tuple(texts)))
            others.append(other_images(prompt, prompt.images, range(len(texts)), self.config, self.step))
        rollout, optim = self.config.rollout, self.config.optim
        pairs = self.policy.score_pairs(
            requests, others, temperature=rollout.temperature, pack_tokens=optim.pack_tokens
        )
        rule = SCORES[self.config.select.score]
        return [[rule(score, pair, self.config.score.alpha) for score, pair in group] for group in pairs]
