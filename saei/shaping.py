"""Weights on the completions' advantages, from what their tokens say of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_EPSILON = 1e-6
"""Added to a group's standard deviation, as in the advantages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapingEvidence:
    """What a shaping may read of the rollouts of one update batch, in the order of their advantages.

    `dependency[i]`: per token of rollout i, how much its log-prob depends on the image (methods.md 9.2), where
    `score.view` gives it. `mean_nll`: mean negative log-prob of the sampled tokens, in nats. `group`: number of the
    problem. `rewards`: of each rollout. `noise`: share of the diffusion's steps that its image went through, 0 for a
    clean one.
    """

    mean_nll: Float[Tensor, " rollouts"]
    group: Int[Tensor, " rollouts"]
    dependency: Sequence[Float[Tensor, " _"]] | None = None
    rewards: Float[Tensor, " rollouts"] | None = None
    noise: Float[Tensor, " rollouts"] | None = None


def unshaped(
    advantages: Float[Tensor, " rollouts"], evidence: ShapingEvidence, strength: float
) -> Float[Tensor, " rollouts"]:
    """As they are."""
    return advantages


def vppo(
    advantages: Float[Tensor, " rollouts"], evidence: ShapingEvidence, strength: float
) -> Float[Tensor, " rollouts"]:
    """A * w, w = 1 - strength + strength * n / mean(n) with n the min-max scaled mean dependency (arXiv 2510.09285).

    Mean w is 1. Minimum, maximum and mean are over the rollouts given, an update batch; the official code takes the
    mean over each micro-batch, where a micro-batch of one gets weight 1 whatever its dependency. Equal dependencies:
    weights 1. Raises ValueError for a negative strength, which could turn an advantage around.
    """
    if strength < 0:
        raise ValueError(
            f"advantage.shaping_strength must be >= 0 with advantage.shaping vppo, got {strength:g}: below 0 the "
            "weight of the completion that depends most on its image can be negative"
        )
    assert evidence.dependency is not None, "the config asks for a score view where advantages are shaped by vppo"
    dependency = torch.stack([tokens.mean() for tokens in evidence.dependency]).to(advantages)
    spread = dependency.max() - dependency.min()
    if spread == 0:
        return advantages
    scaled = (dependency - dependency.min()) / spread
    return advantages * (1 - strength + strength * scaled / scaled.mean())


def ecvgpo(
    advantages: Float[Tensor, " rollouts"], evidence: ShapingEvidence, strength: float
) -> Float[Tensor, " rollouts"]:
    """A * (1 + strength * tanh(u)) where A > 0, with u the mean nll standardised within its group (methods.md 8.5).

    Above 0, right answers that were unlikely count more, which raises entropy; below 0, likely ones, which lowers it.
    Equal values in a group: u = 0. A reconstruction, see RECONSTRUCTIONS.
    """
    surprise = torch.zeros_like(evidence.mean_nll)
    for number in evidence.group.unique():
        members = evidence.group == number
        values = evidence.mean_nll[members]
        # equal values by comparison: a rounded mean over a tiny std would leave noise
        if bool((values != values[0]).any()):
            surprise[members] = (values - values.mean()) / (values.std(correction=1) + _EPSILON)
    factor = 1 + strength * torch.tanh(surprise).to(advantages)
    return torch.where(advantages > 0, advantages * factor, advantages)


RECONSTRUCTIONS: dict[str, str] = {
    "ecvgpo": (
        "advantage.shaping ecvgpo is a reconstruction: arXiv 2512.06726 re-weights positive advantages by "
        "self-information, but its function and code are not available; ours is A * (1 + shaping_strength * tanh(u)), "
        "u the completion's mean negative log-prob standardised within its group"
    )
}
"""`advantage.shaping` -> what of it is ours and not the paper's, for the run record and the report."""

_PRIOR_VARIANCE = 0.01
_TRL_EPSILON = 1e-4


def noise_prior(
    advantages: Float[Tensor, " rollouts"], evidence: ShapingEvidence, strength: float
) -> Float[Tensor, " rollouts"]:
    """NoisyGRPO's fusion of reward and noise level, in place of the advantages (arXiv 2510.21122; methods.md 9.3).

    A = norm(z_r + K (z_n - z_r)) within each group, z_r = norm(rewards), z_n = norm(1 - noise), with the gain K =
    P / (strength + P), P = p / (std(rewards)^2 + p), p = 0.01: the less the rewards tell, the more the cleaner image
    counts. The paper has four noise levels and R = strength = 0.1; a plan of clean and noise has two.
    """
    assert evidence.rewards is not None and evidence.noise is not None, "the caller knows rewards and noise levels"
    fused = torch.zeros_like(advantages)
    for number in evidence.group.unique():
        members = evidence.group == number
        rewards, noise = evidence.rewards[members], evidence.noise[members]
        prior = _PRIOR_VARIANCE / (rewards.std() ** 2 + _PRIOR_VARIANCE)
        gain = (prior / (strength + prior)).clamp(0, 1)
        reward_score, clean_score = _normalised(rewards), _normalised(1 - noise)
        fused[members] = _normalised(reward_score + gain * (clean_score - reward_score)).to(fused)
    return fused


def _normalised(values: Float[Tensor, " _"]) -> Float[Tensor, " _"]:
    return (values - values.mean()) / (values.std() + _TRL_EPSILON)


Shaping = Callable[[Float[Tensor, " rollouts"], ShapingEvidence, float], Float[Tensor, " rollouts"]]
SHAPINGS: dict[str, Shaping] = {"none": unshaped, "vppo": vppo, "ecvgpo": ecvgpo, "noise_prior": noise_prior}
"""`advantage.shaping` -> its function of (advantages, evidence, advantage.shaping_strength)."""
