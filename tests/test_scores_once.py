"""What is scored once in place of twice: old log-probs of a first update, the entropies that choose EgAS's tokens."""

import pytest
import torch

from saei.credit import group_advantages, update_batches
from saei.evidence import gather_evidence, score_rollouts, with_scores
from saei.scoring import score_chosen
from saei.seeding import torch_generator
from saei.state import RunState
from saei.update import update_policy
from tests.oracle import plain, scored
from tests.sampler_models import qwen2_5_vl
from tests.test_equivalence import Recorder, policy, progress, wide_config  # noqa: F401
from tests.test_packing import requests_of


def evidence_of(policy, progress, config):  # noqa: F811
    groups = progress.groups()
    advantages = group_advantages(groups, progress.rewards, config)
    return groups, gather_evidence(policy, None, groups, advantages, progress, config, 0, RunState())


def test_the_first_update_finds_the_old_log_probs_that_a_pass_of_their_own_would(policy, progress):  # noqa: F811
    config = wide_config("grpo")
    expected = score_rollouts(policy, progress.groups(), config)
    groups, evidence = evidence_of(policy, progress, config)
    first, second = update_batches(groups, config.optim.updates_per_step)
    keys = [[rollout.key for group in part for rollout in group.rollouts] for part in (first, second)]
    assert all(evidence[key].old is None for key in keys[0])
    assert all(evidence[key].old is not None for key in keys[1])  # these are read after the weights have moved
    optimizer = Recorder(policy.model.parameters())
    result = update_policy(policy, optimizer, first, evidence, config, torch_generator(0, "loss"), first=True)
    evidence = with_scores(evidence, result.scores)
    assert result.scores.keys() == set(keys[0])
    for key, old in expected.items():
        found = evidence[key].measured
        for name in ("logprobs", "entropy", "entropy_t1"):
            torch.testing.assert_close(getattr(found, name), getattr(old, name), atol=1e-9, rtol=0)
            assert not getattr(found, name).requires_grad


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("top_entropy", {}),  # chosen by the old weights' entropies
        ("kl_cov", {}),  # picked from the whole update batch
        ("vppo", {}),  # compared with another image
        ("grpo", {"advantage__shaping": "ecvgpo"}),  # shaped by each completion's surprise
    ],
)
def test_what_is_read_before_the_first_update_is_measured_before_it(name, settings, policy, progress):  # noqa: F811
    _, evidence = evidence_of(policy, progress, wide_config(name, **settings))
    assert all(one.old is not None for one in evidence.values())


def test_an_assertion_meets_a_setting_that_reads_too_early(policy, progress):  # noqa: F811
    _, evidence = evidence_of(policy, progress, wide_config("grpo"))
    with pytest.raises(AssertionError, match="read before the first update"):
        _ = next(one for one in evidence.values() if one.old is None).measured


def test_one_pass_gives_the_entropies_that_choose_and_the_scores_of_what_was_chosen():
    toy = scored(qwen2_5_vl())
    requests = requests_of(toy)
    expected = plain(toy, requests)
    seen = []

    def highest(entropies):
        seen.append(entropies)
        return [[tokens >= tokens.median() for tokens in row] for row in entropies]

    before = toy.packed_forwards
    chosen = score_chosen(toy, requests, highest, temperature=1.0, pack_tokens=4096)
    assert toy.packed_forwards == before + 1
    assert not any(tokens.requires_grad for row in seen[0] for tokens in row)
    for row, kept, entropies in zip(expected, chosen, seen[0], strict=True):
        for (logprobs, entropy), score, own in zip(row, kept, entropies, strict=True):
            torch.testing.assert_close(own, entropy, atol=1e-10, rtol=0)
            mask = own >= own.median()
            torch.testing.assert_close(score.entropy, entropy[mask], atol=1e-10, rtol=0)
            torch.testing.assert_close(score.logprobs, logprobs[mask], atol=1e-10, rtol=0)
            assert score.entropy.requires_grad
