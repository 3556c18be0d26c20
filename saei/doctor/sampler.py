"""Is our greedy decoding token for token that of `generate`?"""

import torch

from saei.doctor.finding import Finding, failed, passed
from saei.doctor.patient import Patient
from saei.doctor.stock import forget_positions, stock_inputs, stock_scores
from saei.types import Prompt

LOOKED_AT, TOKENS = 4, 64


@torch.no_grad()
def check_sampler(patient: Patient) -> Finding:
    prompts = patient.prompts[:LOOKED_AT]
    length = min(TOKENS, patient.config.rollout.max_new_tokens)
    ours = [completion.token_ids for completion in patient.greedy(prompts, length)]
    ties, compared = 0, 0
    for prompt, mine in zip(prompts, ours, strict=True):
        stock = _generate(patient, prompt, length)
        place = next((i for i, (a, b) in enumerate(zip(mine, stock, strict=False)) if a != b), None)
        if place is None and len(mine) == len(stock):
            compared += len(mine)
            continue
        place = min(len(mine), len(stock)) if place is None else place
        gap = _gap(patient, prompt, mine, stock, place)
        if not gap <= patient.tolerance:
            return failed(
                f"{prompt.problem_id}: token {place} differs, its log-probs by {gap:.2g} nats",
                "the cache or the positions of the sampler do not fit this model: report it with the model's type",
            )
        ties += 1
        compared += place
    tied = f"; {ties} ended at a tie within {patient.tolerance:g} nats" if ties else ""
    return passed(f"{len(prompts)} prompts, {compared} greedy tokens equal{tied}")


def _generate(patient: Patient, prompt: Prompt, tokens: int) -> tuple[int, ...]:
    policy = patient.policy
    inputs = stock_inputs(policy, prompt)
    made = policy.model.generate(
        **inputs,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        repetition_penalty=1.0,
        max_new_tokens=tokens,
        suppress_tokens=list(policy.suppressed_token_ids) or None,
        eos_token_id=list(policy.end_token_ids),
        pad_token_id=policy.end_token_ids[0],
    )
    forget_positions(policy.model)
    return tuple(made[0, len(prompt.token_ids) :].tolist())


def _gap(patient: Patient, prompt: Prompt, mine: tuple[int, ...], stock: tuple[int, ...], place: int) -> float:
    """By how many nats the two tokens at `place` differ, after what both agree on; infinite where one has ended."""
    if place >= min(len(mine), len(stock)):
        return float("inf")
    one, other = (stock_scores(patient.policy, prompt, (*mine[:place], row[place]))[0][-1] for row in (mine, stock))
    return abs(float(one - other))
