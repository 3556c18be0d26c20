"""The one way to completions, whatever samples them: the sampler of this process, or an engine in another.

An engine's completions differ in one thing: their noise. Its generator is seeded for each completion, from that
completion's own stream, so a run repeats its seeds; but two arms that meet the same seed do not meet the same uniform
at each token, as under our sampler, and vLLM gives no promise of equal draws in another batch. Arms of a sweep are then
compared unpaired in their noise (paired still in problems and seeds).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from saei.config import Config
from saei.engines.wire import EngineCompletion, EngineRule
from saei.sampler import Noise, sample
from saei.types import SampledCompletion, SampleRequest, ScoreRequest

Sampling = tuple[float, float]
"""(temperature, top_p)."""


def complete(
    policy: Any,
    requests: Sequence[SampleRequest],
    config: Config,
    *,
    engine: str,
    sampling: Sampling,
    noise: Noise | None,
) -> list[list[SampledCompletion]]:
    """Every completion of every request (outer list: request, inner: its `indices`), tensors on the CPU.

    `engine` is a name of ENGINES, `noise` None decodes greedily. Raises as the engine does: see `saei.sampler.sample`
    and `saei.engines.served.ServedEngine.sample`.
    """
    return ENGINES[engine](policy, requests, config, sampling, noise)


def _here(
    policy: Any, requests: Sequence[SampleRequest], config: Config, sampling: Sampling, noise: Noise | None
) -> list[list[SampledCompletion]]:
    temperature, top_p = sampling
    return sample(
        policy,
        requests,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=config.rollout.max_new_tokens,
        batch_rows=config.rollout.batch_rows,
        noise=noise,
    )


def _served(
    policy: Any, requests: Sequence[SampleRequest], config: Config, sampling: Sampling, noise: Noise | None
) -> list[list[SampledCompletion]]:
    """From the engine that the policy has, with the log-probs and entropies that the trainer finds for its tokens."""
    if policy.engine is None:
        raise RuntimeError("the policy has no engine: completions of one are asked for inside engine_serving()")
    temperature, top_p = sampling
    rule = EngineRule(
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=config.rollout.max_new_tokens,
        end=tuple(policy.end_token_ids),
        suppressed=tuple(policy.suppressed_token_ids),
        vocabulary=policy.model.get_output_embeddings().weight.shape[0],
    )
    seeds = [[_seed(noise, request.prompt.problem_id, index) for index in request.indices] for request in requests]
    answers = policy.engine.sample(policy, requests, seeds, rule)
    policy.tokens_generated += sum(len(one.token_ids) for group in answers for one in group)
    return _scored_here(policy, requests, answers, temperature, config.optim.pack_tokens)


def _seed(noise: Noise | None, problem_id: str, index: int) -> int | None:
    """The seed of a completion: the first uniform of its own stream, all 53 bits of it."""
    return None if noise is None else int(float(noise(problem_id, index, 1)[0]) * 2**53)


@torch.no_grad()
def _scored_here(
    policy: Any,
    requests: Sequence[SampleRequest],
    answers: Sequence[Sequence[EngineCompletion]],
    temperature: float,
    pack_tokens: int,
) -> list[list[SampledCompletion]]:
    """The engine's completions under the trainer's weights, on the image that each saw: one forward pass more.

    What top-p and suppression removed is not known of an engine: `removed_mass` is NaN.
    """
    scoring = [
        ScoreRequest(prompt=request.prompt, images=request.images, completions=tuple(one.token_ids for one in answer))
        for request, answer in zip(requests, answers, strict=True)
    ]
    scores = policy.score(scoring, temperature=temperature, pack_tokens=pack_tokens)
    return [
        [
            SampledCompletion(
                index=index,
                token_ids=one.token_ids,
                sampler_logprobs=score.logprobs.cpu(),
                sampler_entropy=score.entropy.cpu(),
                removed_mass=torch.full((len(one.token_ids),), torch.nan),
                finished=one.finished,
                engine_logprobs=torch.tensor(one.logprobs),
            )
            for index, one, score in zip(request.indices, answer, group, strict=True)
        ]
        for request, answer, group in zip(requests, answers, scores, strict=True)
    ]


Engine = Callable[
    [Any, Sequence[SampleRequest], Config, Sampling, Noise | None],
    list[list[SampledCompletion]],
]
ENGINES: dict[str, Engine] = {"transformers": _here, "vllm": _served}
"""`rollout.engine` and `eval.engine` -> what samples."""
