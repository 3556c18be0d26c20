"""Every preset: its settings, its loss on the toy batch, and one statement of what its gradient does that GRPO's does
not. `python -m tests.test_presets` accepts a change: it writes tests/golden/presets.json anew.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saei.config import Config, content_hash, identity, to_dict, with_overrides
from saei.presets import PRESETS, preset
from saei.recorder import reconstructions
from saei.state import RunState
from tests.toy_batch import ENTROPY, GIVEN, LENGTHS, LOGPROBS, MASK, OLD, PERTURBED, ToyModel, ToyStep, table, toy_step

GOLDEN = Path(__file__).parent / "golden" / "presets.json"
ACCEPT = "if that is meant, accept it with `python -m tests.test_presets` and look at the diff of tests/golden"
FLAVOURS = ("tiny", "published")
ADVANTAGES = torch.tensor(list(GIVEN.values()), dtype=torch.float64)[:, None]
RATIO = torch.where(MASK, (LOGPROBS - OLD).exp(), 0.0)
TOKENS = torch.tensor([8.0, 8.0, 9.0, 9.0], dtype=torch.float64)[:, None]
"""Tokens of each row's update batch."""


@cache
def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}


@cache
def step_of(name: str) -> ToyStep:
    return toy_step(preset(name))


def overrides(config: Config) -> dict[str, Any]:
    """The settings, as dotted names, in which a config differs from the default one."""
    mine, default = flat(to_dict(config)), flat(to_dict(Config()))
    return {name: value for name, value in mine.items() if value != default[name] and name not in ("preset", "flavour")}


def flat(tree: dict[str, Any]) -> dict[str, Any]:
    """Groups of settings as dotted names; no setting is itself a table."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= {f"{name}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {name: value}
    return found


def measured(name: str) -> dict[str, Any]:
    settings = {flavour: overrides(preset(name, flavour)) for flavour in FLAVOURS}
    return {**settings, "loss": [round(loss, 6) for loss in step_of(name).losses]}


def sampling(config: Config) -> dict[str, Any]:
    """All settings that decide what is sampled and how it is rewarded."""
    tree = identity(config)
    return {name: tree.get(name) for name in ("rollout", "view", "select", "filter", "data", "reward")}


# --- golden values ----------------------------------------------------------------------------------------------------


def test_golden_values_are_kept_of_every_preset_and_of_no_other():
    assert golden().keys() == PRESETS.keys(), f"{sorted(golden().keys() ^ PRESETS.keys())}: {ACCEPT}"


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("name", PRESETS)
def test_the_settings_of_a_preset_are_the_golden_ones(name, flavour):
    assert overrides(preset(name, flavour)) == golden()[name][flavour], f"preset {name}, {flavour}: {ACCEPT}"


@pytest.mark.parametrize("name", PRESETS)
def test_the_loss_of_a_preset_on_the_toy_batch_is_the_golden_one(name):
    assert list(step_of(name).losses) == pytest.approx(golden()[name]["loss"], abs=1e-6), f"preset {name}: {ACCEPT}"


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        # -rho of row 1, its 4th cut to 1.2: -5.123902; + rho of row 2: 2.914845; / 8 tokens (the sheet: -1.104528 / 4)
        ("grpo", -0.276132),
        # the same sum over 2 completions of constant length 5
        ("dr_grpo", -0.220906),
        # cut to 1.28 instead: .08 / 8 lower; no ratio of row 2 reaches the dual clip
        ("dapo", -0.286132),
        # not cut: (-5.273761 + 2.914845) / 8 = -.294864, and .1 / 8 for the token of largest covariance, row 2's third
        ("kl_cov", -0.282364),
        # the largest covariance is .960938: none is in (1, 5), and clip 1/1 cuts nothing here
        ("clip_cov", -0.294864),
        # weights cut to 1.28 times logprobs: (4.202994 - 2.593644) / 8
        ("cispo", 0.201169),
        # row 1: held at 1.0004, row 2, of A < 0, at .9997; the mean over 2 completions
        ("gspo", -0.000350),
        # 2 of 8 tokens, H = 2.10 and 1.70: (-1.28 + .904837) / 2
        ("top_entropy", -0.187581),
        # one token of each completion, both their second: (-.818731 + .904837) / 2
        ("vepo", 0.043053),
        # GRPO's less .001 * mean entropy 7.07 / 8
        ("entropy_bonus", -0.277016),
        # SENT v2 of the sheet, -.257364, and .001 * k3 of the reference, whose d are -.1 .2 0 -.3 0 and -.1 .1 .1:
        # (.004837 + .021403 + .040818 + .004837 + 2 * .005171) / 8 = .010280
        ("sent", -0.257364 + 0.001 * 0.010280),
    ],
)
def test_the_methods_sheets_losses_by_hand(name, loss):
    assert step_of(name).losses[0] == pytest.approx(loss, abs=1.5e-6)


# --- what each gradient does differently ------------------------------------------------------------------------------


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-12, atol=1e-14)


def plain_gradient() -> Tensor:
    """-A rho / tokens: no clip."""
    return -ADVANTAGES * RATIO / TOKENS


def k3_gradient(other: Tensor) -> Tensor:
    """Of the mean over an update batch of e^d - d - 1, d = other - logprobs: (1 - e^d) / tokens."""
    return torch.where(MASK, 1 - (other - LOGPROBS).exp(), 0.0) / TOKENS


def only_these_learn(gradient: Tensor, *places: tuple[int, int]) -> bool:
    """Is the gradient not 0 at these (row, token), 1-based, and exactly 0 elsewhere?"""
    return {(row + 1, token + 1) for row, token in gradient.nonzero().tolist()} == set(places)


def clips_the_ratios_above_a_fifth(mine: ToyStep, grpo: ToyStep) -> bool:
    cut = plain_gradient()
    cut[0, 3] = cut[2, 0] = 0  # 1.35 and 1.25; those of 11 and 4.5 at A < 0 stay
    return close(mine.logprobs, cut) and torch.equal(mine.logprobs == 0, cut == 0)


def samples_otherwise(mine: ToyStep, grpo: ToyStep) -> bool:
    return torch.equal(mine.logprobs, grpo.logprobs) and sampling(mine.config) != sampling(grpo.config)


def scales_with_length(mine: ToyStep, grpo: ToyStep) -> bool:
    return close(mine.logprobs, grpo.logprobs * TOKENS / (2 * 5))


def clips_higher_and_twice(mine: ToyStep, grpo: ToyStep) -> bool:
    expected = grpo.logprobs.clone()
    expected[2, 0], expected[3, 0] = -RATIO[2, 0] / 9, 0
    return close(mine.logprobs, expected) and bool(mine.logprobs[3, 0] == 0)


def clips_whole_completions(mine: ToyStep, grpo: ToyStep) -> bool:
    even = all(close(row[:length], row[:1].expand(length)) for row, length in zip(mine.logprobs, LENGTHS, strict=True))
    return even and not mine.logprobs[:2].any() and bool(mine.logprobs[2:, 0].all())


def weighs_and_never_drops(mine: ToyStep, grpo: ToyStep) -> bool:
    return close(mine.logprobs, -ADVANTAGES * RATIO.clamp(max=1.28) / TOKENS)


def pulls_back_two(mine: ToyStep, grpo: ToyStep) -> bool:
    pull = table((), (0, 0, -1 / 8), (), (0, 0, -1 / 9))  # both moved down by .1
    return close(mine.logprobs, plain_gradient() + pull)


def detaches_one(mine: ToyStep, grpo: ToyStep) -> bool:
    rest = plain_gradient()
    rest[3, 2] = 0
    return bool(mine.logprobs[3, 2] == 0) and close(mine.logprobs, rest)


def teaches_the_top_entropies(mine: ToyStep, grpo: ToyStep) -> bool:
    # row 1's fourth has the highest entropy too, and a ratio of 1.35, which even DAPO's clip takes
    four_times = grpo.logprobs[1, 2] * 8 / 2
    return only_these_learn(mine.logprobs, (2, 3), (3, 2), (4, 3)) and close(mine.logprobs[1, 2], four_times)


def teaches_one_token_of_each(mine: ToyStep, grpo: ToyStep) -> bool:
    picked = mine.logprobs != 0
    places = only_these_learn(mine.logprobs, (1, 2), (2, 2), (3, 3), (4, 4))
    return places and close(mine.logprobs[picked], (grpo.logprobs * TOKENS / 2)[picked])


def teaches_what_the_image_decides(mine: ToyStep, grpo: ToyStep) -> bool:
    # without the 0.06 / tokens on every token; row 1's fourth is picked too, and clipped
    policy = torch.where(MASK, mine.logprobs + 0.06 / TOKENS, 0.0)
    policy = torch.where(policy.abs() < 1e-15, 0.0, policy)
    weights = torch.tensor([1.1, 0.9, 0.9, 1.1], dtype=torch.float64)[:, None]
    picked = policy != 0
    places = only_these_learn(policy, (1, 2), (2, 2), (2, 3), (3, 2), (3, 3), (4, 3), (4, 4))
    return places and close(policy[picked], (weights * grpo.logprobs)[picked])


def leaves_the_masked_image(mine: ToyStep, grpo: ToyStep) -> bool:
    # clip .3: row 3's first learns; dual clip 3: row 4's first two do not; row 1's fourth is still clipped
    clipped = plain_gradient()
    clipped[0, 3] = clipped[3, 0] = clipped[3, 1] = 0
    of_all = -0.05 * MASK.double() / TOKENS + 0.01 * k3_gradient(OLD)
    return close(mine.logprobs - clipped - of_all, -0.02 * k3_gradient(PERTURBED))


def holds_both_ends_of_low_entropy(mine: ToyStep, grpo: ToyStep) -> bool:
    # first batch: row 2's second moved down by .1, row 1's second by .2; second batch: row 4's fourth moved up by .05,
    # and the other end, row 4's last, did not move
    pull = table((0, -0.5 / 8), (0, -2 / 8), (), (0, 0, 0, 2 / 9))
    return close(mine.logprobs, plain_gradient() + pull + 0.001 * k3_gradient(OLD))


def raises_entropy(*coefficients: float) -> Callable[[ToyStep, ToyStep], bool]:
    """GRPO's gradient, and -coefficient / tokens on the entropies of the two update batches."""
    of_rows = torch.tensor(coefficients, dtype=torch.float64).repeat_interleave(2)[:, None]

    def holds(mine: ToyStep, grpo: ToyStep) -> bool:
        bonus = torch.where(MASK, -of_rows / TOKENS, 0.0)
        return torch.equal(mine.logprobs, grpo.logprobs) and close(mine.entropy, bonus)

    return holds


def raises_the_expected(mine: ToyStep, grpo: ToyStep) -> bool:
    # old log-probs of row 1 have mean -.81, of row 2 -.9: u = -+.045 / (.063640 + 1e-6) = -+.707096;
    # 1 - .3 tanh(-.707096) = 1.182656; in the second group row 3 (-.55) stands to row 4 (-2.01) in the same way
    factors = torch.tensor([1.182656, 1.0, 1.182658, 1.0], dtype=torch.float64)[:, None]
    return torch.allclose(mine.logprobs, factors * grpo.logprobs, rtol=1e-6, atol=0)


STATEMENTS: Mapping[str, tuple[str, Callable[[ToyStep, ToyStep], bool]]] = {
    "grpo": ("no gradient where A > 0 and the ratio exceeds 1.2", clips_the_ratios_above_a_fifth),
    "dr_grpo": ("GRPO's, times tokens / (completions * length)", scales_with_length),
    "dapo": ("a ratio of 1.25 still learns; at A < 0 one of 11 no longer does", clips_higher_and_twice),
    "gspo": ("all tokens of a completion get the same gradient, or none does", clips_whole_completions),
    "cispo": ("no token is dropped: ratios beyond 1.28 weigh 1.28", weighs_and_never_drops),
    "kl_cov": ("unclipped, and the token of largest covariance is pulled back to where it was", pulls_back_two),
    "clip_cov": ("unclipped, and exactly 0 on the token whose covariance is in (1, 5)", detaches_one),
    "top_entropy": ("0 outside the two highest entropies of the batch, divided by 2", teaches_the_top_entropies),
    "vepo": ("0 outside one token of each completion, not its highest entropy", teaches_one_token_of_each),
    "vppo": ("0 outside two image-bound tokens of each, weighted by dependency", teaches_what_the_image_decides),
    "papo": ("besides clip, KL and NLL, away from the log-probs under the mask", leaves_the_masked_image),
    "sent": ("unclipped, low entropies pulled back at both ends of the covariance", holds_both_ends_of_low_entropy),
    "entropy_bonus": ("GRPO's, and entropy rises everywhere at 1e-3", raises_entropy(1e-3, 1e-3)),
    "adaptive_entropy": ("below the target one step of 1e-4", raises_entropy(1e-4, 1e-4)),
    "proportional_entropy": (".03 of the missing .1 nats", raises_entropy(3e-3, 3e-3)),
    # 0.05 * (0.8 * 0.5 - 0.1) = 0.015, cut to coef_max 0.01; the hard problem has all of the weight
    "aer": ("twice the coefficient on the hard problem, none on the easy one", raises_entropy(0.02, 0.0)),
    "ecvgpo": ("A > 0: the likelier completion of its group counts 1.18 times", raises_the_expected),
    **dict.fromkeys(
        ("saei", "egas_all_tokens", "noisyrollout", "random_third", "random_sign", "gaussian", "step_zero",
         "text_embedding"),
        ("GRPO's: what differs is what is sampled", samples_otherwise),
    ),
}  # fmt: skip
"""Preset -> what its gradient does differently from GRPO's on the toy batch, in words and as a check."""


@pytest.mark.parametrize("name", PRESETS)
def test_the_gradient_of_a_preset_does_what_it_is_said_to_do(name):
    assert name in STATEMENTS, f"preset {name} has no statement of what its gradient does differently from GRPO's"
    sentence, holds = STATEMENTS[name]
    assert holds(step_of(name), step_of("grpo")), f"{name}: {sentence}"


def test_no_statement_holds_of_grpo_except_its_own():
    true_of_grpo = {name for name, (_, holds) in STATEMENTS.items() if holds(step_of("grpo"), step_of("grpo"))}
    assert true_of_grpo == {"grpo"}


def test_no_token_of_the_padding_has_a_gradient():
    for name in PRESETS:
        assert not step_of(name).logprobs[~MASK].any() and not step_of(name).entropy[~MASK].any(), name


# --- no preset is another under its name ------------------------------------------------------------------------------


def twins(steps: Mapping[str, ToyStep]) -> list[tuple[str, str]]:
    """Pairs that sample the same and learn the same from it on the toy batch."""
    return [
        (one, other)
        for one, other in combinations(steps, 2)
        if sampling(steps[one].config) == sampling(steps[other].config)
        and close(steps[one].logprobs, steps[other].logprobs)
        and close(steps[one].entropy, steps[other].entropy)
    ]


def test_no_two_presets_sample_and_learn_the_same():
    assert twins({name: step_of(name) for name in PRESETS}) == []


def test_a_preset_under_a_second_name_would_be_found():
    steps = {name: step_of(name) for name in PRESETS}
    again = replace(steps["vepo"], config=with_overrides(steps["vepo"].config, {"preset": "mine"}))
    assert twins({**steps, "mine": again}) == [("vepo", "mine")]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_no_preset_repeats_the_identity_of_another(flavour):
    names: dict[str, str] = {}
    for name in PRESETS:
        other = names.setdefault(content_hash(identity(preset(name, flavour))), name)
        assert other == name, f"{name} is {other} under another name"


def test_every_preset_names_its_source_and_what_differs():
    for name, row in PRESETS.items():
        assert len(row.source) > 10 and len(row.differs) > 10, name


@pytest.mark.parametrize("name", PRESETS)
def test_a_reconstruction_is_called_one_in_the_table_and_in_the_run_record(name):
    said = "reconstruction" in PRESETS[name].differs.lower()
    assert said == bool(reconstructions(preset(name)))
    assert said == (name in {"aer", "ecvgpo", "sent"})


def test_kl_cov_at_the_old_log_probs_is_unclipped_policy_gradient():
    # the one pair that may be equal: at ratio 1 nothing is clipped and |logprobs - old| has gradient 0
    kl_cov, grpo = (toy_step(preset(name), current=ToyModel(OLD)) for name in ("kl_cov", "grpo"))
    assert close(kl_cov.logprobs, torch.where(MASK, -ADVANTAGES / TOKENS, 0.0))
    assert twins({"kl_cov": kl_cov, "grpo": grpo}) == [("kl_cov", "grpo")]


@pytest.mark.parametrize("name", ["adaptive_entropy", "proportional_entropy", "aer"])
def test_a_controller_whose_coefficient_is_zero_is_grpo(name):
    fresh = toy_step(preset(name), state=RunState())
    high = toy_step(preset(name), state=RunState(first_entropy=0.5, last_entropy=0.5, control_coef=0.0))
    for step in (fresh, high):
        assert step.losses == step_of("grpo").losses
        assert torch.equal(step.logprobs, step_of("grpo").logprobs) and not step.entropy.any()


def test_the_toy_entropies_part_entropy_and_visual_selection():
    # otherwise VEPO's statement could hold of a selection by entropy
    by_entropy = [int(row[:length].argmax()) for row, length in zip(ENTROPY, LENGTHS, strict=True)]
    by_vepo = [int(row.abs().argmax()) for row in step_of("vepo").logprobs]
    assert all(one != other for one, other in zip(by_entropy, by_vepo, strict=True))


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: measured(name) for name in PRESETS}, indent=1) + "\n")
