"""What the checks look at, made once and only when one of them asks: the policy, some problems, some completions."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from saei.config import Config
from saei.data import load_problems
from saei.doctor.finding import NotHere
from saei.evaluate import first_problems
from saei.policy import Policy, load_policy
from saei.rollout import GroupsInProgress, sample_view
from saei.sampler import sample
from saei.types import Group, Problem, Prompt, SampledCompletion, SampleRequest, ScoreRequest

CLEAN = "clean"


@dataclass(kw_only=True)
class Patient:
    """A run that has not begun. `problems_wanted` of the training split are looked at; `cluster` is a Slurm profile or
    None; `processes` devices of `device_gb` GiB each, None: the GPU that is here.
    """

    config: Config
    problems_wanted: int = 4
    cluster: Path | None = None
    processes: int = 1
    device_gb: float | None = None

    @cached_property
    def policy(self) -> Policy:
        """Raises NotHere where it cannot be loaded: the check `model` says why."""
        try:
            return load_policy(self.config.model, self.config.data)
        except (ValueError, OSError) as error:
            raise NotHere("the model could not be loaded (see the check model)") from error

    @cached_property
    def problems(self) -> list[Problem]:
        """The first ones of the training split."""
        found = self.first(self.config.data.train_split, self.problems_wanted)
        if not found:
            raise NotHere("the training split has no problem")
        return found

    def first(self, split: str, count: int) -> list[Problem]:
        """The first problems of a split. Raises NotHere where they cannot be loaded: the check `data` says why."""
        try:
            return first_problems(load_problems(self.config.data, split), count)
        except (ValueError, OSError) as error:
            raise NotHere("the problems could not be loaded (see the check data)") from error

    @cached_property
    def prompts(self) -> list[Prompt]:
        return [self.policy.encode(problem) for problem in self.problems]

    @cached_property
    def groups(self) -> list[Group]:
        """The clean completions of the plan, as the first step would sample them."""
        progress = self.progress()
        return progress.groups()

    def progress(self, count: int = 0) -> GroupsInProgress:
        """Groups with `count` clean completions each (0: as many as the plan's), of the first step's noise."""
        progress = GroupsInProgress.begin(self.policy, self.problems)
        progress.images[CLEAN] = [[prompt.images] for prompt in progress.prompts]
        number = count or self.config.group_plan()[0].count
        sample_view(self.policy, progress, CLEAN, number, self.config, 0)
        return progress

    def requests(self, count: int = 2) -> list[ScoreRequest]:
        """Scoring requests of the first `count` completions of every group."""
        return [
            ScoreRequest(
                prompt=group.prompt,
                images=group.prompt.images,
                completions=tuple(rollout.token_ids for rollout in group.rollouts[:count]),
            )
            for group in self.groups
        ]

    def greedy(self, prompts: list[Prompt], tokens: int) -> list[SampledCompletion]:
        """One greedy completion of each prompt, by our sampler."""
        requests = [SampleRequest(prompt=prompt, images=prompt.images, indices=(0,)) for prompt in prompts]
        with torch.no_grad():
            found = sample(
                self.policy,
                requests,
                temperature=1.0,
                top_p=1.0,
                max_new_tokens=tokens,
                batch_rows=self.config.rollout.batch_rows,
                noise=None,
            )
        return [group[0] for group in found]

    @property
    def tolerance(self) -> float:
        """Largest difference of two log-probs of one token that rounding explains, in nats."""
        return {torch.float64: 1e-7, torch.float32: 1e-3}.get(self.policy.model.dtype, 0.5)
