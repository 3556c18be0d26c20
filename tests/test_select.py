"""Which tokens are kept: worked tables, exact fractions, ties, scopes."""

from fractions import Fraction
from itertools import pairwise

import pytest
import torch

from saei.config import PolicySelectConfig, SelectConfig
from saei.seeding import torch_generator
from saei.select import OTSU_CUTS, RULES, bands, kept_count, running_thresholds, select_tokens

# methods.md 13.2: floor(n/3) dropped at each end; ranks kept, 0-based, ascending
THIRDS = {
    1: [0],
    2: [0, 1],
    3: [1],
    4: [1, 2],
    5: [1, 2, 3],
    6: [2, 3],
    7: [2, 3, 4],
    8: [2, 3, 4, 5],
    9: [3, 4, 5],
    10: [3, 4, 5, 6],
    12: [4, 5, 6, 7],
}


def kept_positions(values: list[float], config: SelectConfig, generator: torch.Generator | None = None) -> list[int]:
    (mask,) = select_tokens([torch.tensor(values)], config, generator)
    return mask.nonzero().flatten().tolist()


@pytest.mark.parametrize("tokens", THIRDS)
def test_the_middle_third_is_the_worked_table(tokens):
    ascending = [0.1 * rank for rank in range(tokens)]
    assert kept_positions(ascending, SelectConfig()) == THIRDS[tokens]
    assert kept_positions(ascending, SelectConfig(rule="middle", share=Fraction(1, 3))) == THIRDS[tokens]
    assert (bands(torch.tensor(ascending)) == 1).nonzero().flatten().tolist() == THIRDS[tokens]


def test_ranks_are_by_entropy_and_not_by_position():
    # ascending: .02 .05 .6 1.4 2.1 at positions 4 0 2 1 3; floor(5/3) = 1 off each end
    assert kept_positions([0.05, 1.4, 0.6, 2.1, 0.02], SelectConfig()) == [0, 1, 2]


def test_equal_entropies_are_ranked_by_position():
    assert kept_positions([0.0] * 6, SelectConfig()) == [2, 3]
    # ascending, stable: the two .1 (positions 1, 3), then the four .5 (0, 2, 4, 5); ranks 2, 3 are positions 0, 2
    assert kept_positions([0.5, 0.1, 0.5, 0.1, 0.5, 0.5], SelectConfig()) == [0, 2]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("all", [0, 1, 2, 3, 4, 5]),
        ("bottom", [1, 5]),  # ascending order of positions: 1 5 0 4 2 3; a third of 6 is 2
        ("middle", [0, 4]),
        ("top", [2, 3]),
    ],
)
def test_the_controls_keep_the_named_end_of_the_ranking(rule, expected):
    values = [0.3, 0.1, 0.8, 0.9, 0.4, 0.2]
    assert kept_positions(values, SelectConfig(rule=rule)) == expected


def test_shares_are_exact_fractions():
    # in floats 0.1 * 3 * 10 = 3.0000000000000004 and 10 * (1 - 0.9) = 0.9999999999999998: a token more or less
    values = [float(rank) for rank in range(10)]
    drop = SelectConfig(drop_low=Fraction(3, 10), drop_high=Fraction(1, 10))
    assert kept_positions(values, drop) == [3, 4, 5, 6, 7, 8]
    assert len(kept_positions(values, SelectConfig(rule="top", share=Fraction(4, 5)))) == 8


def test_shares_that_are_not_symmetric_drop_at_their_own_end():
    values = [float(rank) for rank in range(9)]
    assert kept_positions(values, SelectConfig(drop_low=Fraction(0), drop_high=Fraction(2, 3))) == [0, 1, 2]
    assert kept_positions(values, SelectConfig(drop_low=Fraction(2, 3), drop_high=Fraction(0))) == [6, 7, 8]


@pytest.mark.parametrize("share", [Fraction(1, 100), Fraction(1, 5), Fraction(1, 3), Fraction(1, 2), Fraction(1)])
def test_no_rule_keeps_nothing_and_the_controls_keep_equal_counts(share):
    drop = (1 - share) / 2
    for tokens in range(1, 61):
        entropy = [torch.rand(tokens, generator=torch.Generator().manual_seed(tokens))]
        counts = {}
        for rule in RULES.keys() - {"mass", "otsu", "quantile"}:  # these keep what the values say
            own = {"band": {"drop_low": drop, "drop_high": drop}, "all": {}}.get(rule, {"share": share})
            config = SelectConfig(rule=rule, **own)
            (mask,) = select_tokens(entropy, config, torch.Generator().manual_seed(0))
            counts[rule] = int(mask.sum())
        assert counts.pop("all") == tokens
        assert set(counts.values()) == {kept_count(tokens, share)}, (tokens, counts)
        assert 1 <= kept_count(tokens, share) <= tokens


def test_the_extreme_legal_drops_still_keep_a_token():
    # floor(n * a) + floor(n * b) <= floor(n * (a + b)) < n for a + b < 1
    config = SelectConfig(drop_low=Fraction(99, 100), drop_high=Fraction(99, 10000))
    assert all(kept_positions([1.0] * tokens, config) for tokens in range(1, 400))


def test_a_selection_survives_monotone_transforms_and_follows_permutations():
    entropy = torch.rand(17, generator=torch.Generator().manual_seed(3))
    (mask,) = select_tokens([entropy], SelectConfig())
    (cubed,) = select_tokens([5 * entropy**3 + 1], SelectConfig())
    order = torch.randperm(17, generator=torch.Generator().manual_seed(4))
    (permuted,) = select_tokens([entropy[order]], SelectConfig())
    assert torch.equal(mask, cubed)
    assert torch.equal(mask[order], permuted)


def test_the_three_bands_are_ordered_and_cover_every_token_once():
    for tokens in range(1, 40):
        entropy = torch.rand(tokens, generator=torch.Generator().manual_seed(tokens))
        third = bands(entropy)
        assert [int((third == band).sum()) for band in (0, 1, 2)] == [
            tokens // 3,
            tokens - 2 * (tokens // 3),
            tokens // 3,
        ]
        assert third[torch.argsort(entropy)].diff().ge(0).all()


def test_group_scope_ranks_over_all_completions_and_response_scope_within_each():
    entropy = [torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 3.0])]
    within = select_tokens(entropy, SelectConfig(scope="response"))
    over_all = select_tokens(entropy, SelectConfig(scope="group"))
    # within: the middle of three each; over all six: ranks 2 and 3, i.e. .3 and 1.0
    assert [mask.tolist() for mask in within] == [[False, True, False], [False, True, False]]
    assert [mask.tolist() for mask in over_all] == [[False, False, True], [True, False, False]]


def test_ties_over_a_group_go_by_completion_and_then_by_position():
    # six equal entropies: ranks 2, 3 are the third token of the first and the first of the second
    over_all = select_tokens([torch.zeros(3), torch.zeros(3)], SelectConfig(scope="group"))
    assert [mask.tolist() for mask in over_all] == [[False, False, True], [True, False, False]]


def test_a_completion_may_keep_no_token_under_group_scope():
    over_all = select_tokens([torch.zeros(2), torch.ones(4), torch.full((3,), 2.0)], SelectConfig(scope="group"))
    # nine tokens, ranks 3..5 kept: completion 0 holds ranks 0, 1
    assert [int(mask.sum()) for mask in over_all] == [0, 3, 0]


def test_the_random_rule_is_a_function_of_its_generator_and_ignores_entropy():
    config = SelectConfig(rule="random", share=Fraction(1, 3))
    entropy = [torch.arange(30.0), torch.arange(30.0)]

    def draw(values, problem):
        return torch.cat(select_tokens(values, config, torch_generator(0, "selection", 7, problem)))

    assert torch.equal(draw(entropy, "p"), draw([-values for values in entropy], "p"))
    assert not torch.equal(draw(entropy, "p"), draw(entropy, "q"))
    first, second = draw(entropy, "p").split(30)
    assert not torch.equal(first, second)
    # 300 draws of 10 of 30: each token is kept 100 times in the mean, sd sqrt(300 * 1/3 * 2/3) = 8.2
    counts = torch.stack([draw(entropy, str(i))[:30] for i in range(300)]).sum(0)
    assert int(counts.min()) > 60 and int(counts.max()) < 140


def test_the_random_rule_without_a_generator_and_an_unknown_rule_are_refused():
    with pytest.raises(ValueError, match=r"select\.rule random .* generator"):
        select_tokens([torch.zeros(3)], SelectConfig(rule="random"))
    with pytest.raises(ValueError, match=r"select\.rule is one of band, all, top"):
        select_tokens([torch.zeros(3)], SelectConfig(rule="upper"))


# --- shares rounded up: 80/20

# methods.md 13.1; the two padding tokens of row 2 are left out, as they must be
ROWS = [torch.tensor([0.05, 1.40, 0.60, 2.10, 0.02]), torch.tensor([0.30, 0.90, 1.70])]


@pytest.mark.parametrize(
    ("share", "first", "second"),
    [(Fraction(1, 5), [4], [3]), (Fraction(3, 10), [2, 4], [3])],  # ceil(1.6) = 2 and ceil(2.4) = 3 of 8 tokens
)
@pytest.mark.parametrize("scope", ["batch", "group"])
def test_the_top_share_of_a_pooled_batch_is_the_80_20_mask(share, first, second, scope):
    masks = select_tokens(ROWS, PolicySelectConfig(rule="top", share=share, scope=scope))
    assert [(mask.nonzero().flatten() + 1).tolist() for mask in masks] == [first, second]


def test_the_top_share_of_each_response_is_rounded_up_to_at_least_one_token():
    # ceil(5/5) = 1 and ceil(3/5) = 1
    masks = select_tokens(ROWS, PolicySelectConfig(rule="top", share=Fraction(1, 5)))
    assert [(mask.nonzero().flatten() + 1).tolist() for mask in masks] == [[4], [3]]
    assert [kept_count(n, Fraction(1, 5), "ceil") for n in (0, 1, 5, 6, 10, 11)] == [0, 1, 1, 2, 2, 3]
    # as a centred band: 6 - 2 * floor(6 * 2/5) = 2, and 10 - 2 * 4 = 2
    assert [kept_count(n, Fraction(1, 5), "band") for n in (0, 1, 5, 6, 10, 11)] == [0, 1, 1, 2, 2, 3]
    # where they differ: 3 tokens at share 1/2 are 2 rounded up, and 3 - 2 * floor(3/4) = 3 as a band
    assert [kept_count(3, Fraction(1, 2), count) for count in ("ceil", "band")] == [2, 3]


@pytest.mark.parametrize("rule", ["top", "bottom", "middle", "random"])
def test_a_share_of_one_keeps_everything(rule):
    masks = select_tokens(ROWS, PolicySelectConfig(rule=rule, share=Fraction(1)), torch.Generator().manual_seed(0))
    assert all(mask.all() for mask in masks)


def test_an_empty_completion_keeps_nothing_under_any_rule():
    for rule in RULES:
        masks = select_tokens([torch.zeros(0)], PolicySelectConfig(rule=rule), torch.Generator().manual_seed(0))
        assert [mask.tolist() for mask in masks] == [[]], rule


# --- adaptive bands


def test_mass_drops_a_share_of_the_sum_at_each_end():
    # sum 12, a third is 4: from the bottom 1 + 1 + 2 = 4 may go, from the top 3 (3 + 5 = 8 is too much) -- ascending
    # 1 1 2 3 5: bottom drops positions 0, 1, 2; the top token alone holds 5 > 4, so none goes there
    assert kept_positions([1.0, 1.0, 2.0, 3.0, 5.0], SelectConfig(rule="mass")) == [3, 4]
    # sum 9, a third is 3: from the bottom 0 + 1 + 2, from the top 3
    assert kept_positions([3.0, 0.0, 3.0, 1.0, 2.0], SelectConfig(rule="mass")) == [0]


def test_mass_drops_at_each_end_what_that_end_says_and_never_everything():
    drop = SelectConfig(rule="mass", drop_low=Fraction(0), drop_high=Fraction(1, 2))
    # sum 8, half is 4: the top token 4 goes, and nothing at the bottom, though it holds nothing
    assert kept_positions([0.0, 1.0, 3.0, 4.0], drop) == [0, 1, 2]
    assert kept_positions([0.0, 0.0], SelectConfig(rule="mass")) == [0, 1]
    for tokens in range(1, 60):
        values = torch.rand(tokens, generator=torch.Generator().manual_seed(tokens)).tolist()
        extreme = SelectConfig(rule="mass", drop_low=Fraction(99, 100), drop_high=Fraction(99, 10000))
        assert kept_positions(values, extreme)


def test_mass_reads_values_and_not_ranks_alone():
    # ten tokens of ever larger entropy: by count the middle third; by mass the bottom half holds too little to matter
    values = [2.0**rank for rank in range(10)]
    # sum 1023, a third 341: 1 + ... + 128 = 255 goes at the bottom (8 tokens), nothing at the top (512 > 341)
    assert kept_positions(values, SelectConfig(rule="mass")) == [8, 9]


def brute_force_otsu(values: list[float]) -> list[int]:
    """The definition: over all pairs of thresholds, the largest sum over classes of size * (mean - common mean)^2."""
    distinct, common = sorted(set(values)), sum(values) / len(values)
    best, kept = -1.0, list(range(len(values)))
    for i in range(1, len(distinct)):
        for j in range(i + 1, len(distinct)):
            edges = [-float("inf"), distinct[i], distinct[j], float("inf")]
            classes = [[v for v in values if low <= v < high] for low, high in pairwise(edges)]
            variance = sum(len(c) * (sum(c) / len(c) - common) ** 2 for c in classes)
            if variance > best + 1e-12:
                best = variance
                kept = [k for k, v in enumerate(values) if distinct[i] <= v < distinct[j]]
    return kept


def test_otsu_keeps_the_middle_one_of_three_clusters():
    values = [0.1, 5.0, 0.0, 1.1, 5.2, 0.2, 1.0, 4.9, 0.9, 0.15]
    assert kept_positions(values, SelectConfig(rule="otsu")) == [3, 6, 8]


@pytest.mark.parametrize("seed", range(20))
def test_otsu_equals_the_definition_tried_over_all_thresholds(seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = int(torch.randint(3, 25, (1,), generator=generator))
    values = (torch.rand(tokens, generator=generator).double() ** 3 * 10).round(decimals=1 + seed % 2)  # with ties
    (mask,) = select_tokens([values], SelectConfig(rule="otsu"))
    assert mask.nonzero().flatten().tolist() == brute_force_otsu(values.tolist())
    (moved,) = select_tokens([7 * values + 3], SelectConfig(rule="otsu"))
    assert torch.equal(mask, moved)


def test_otsu_keeps_all_where_three_classes_cannot_be_and_parts_no_ties():
    assert kept_positions([0.3] * 4, SelectConfig(rule="otsu")) == [0, 1, 2, 3]
    assert kept_positions([0.3, 0.7, 0.3, 0.7], SelectConfig(rule="otsu")) == [0, 1, 2, 3]
    assert kept_positions([0.3, 0.7, 0.3, 0.7, 0.7, 1.5], SelectConfig(rule="otsu")) == [1, 3, 4]
    assert kept_positions([0.4], SelectConfig(rule="otsu")) == [0]


def test_otsu_with_more_values_than_thresholds_still_finds_the_clusters():
    tokens = 4 * OTSU_CUTS
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([0.1, 1.0, 3.0])[torch.randint(0, 3, (tokens,), generator=generator)]
    (mask,) = select_tokens([centres + 0.05 * torch.rand(tokens, generator=generator)], SelectConfig(rule="otsu"))
    # a threshold may fall a few ranks beside the gap: one in 4
    assert int((mask != (centres == 1.0)).sum()) <= 2 * 4


def test_quantile_keeps_what_lies_between_the_thresholds_and_perhaps_nothing():
    config, values = SelectConfig(rule="quantile"), [torch.tensor([0.1, 0.5, 0.9, 0.7])]
    kept = [select_tokens(values, config, thresholds=t)[0].tolist() for t in ((0.5, 0.7), (2.0, 3.0))]
    assert kept == [[False, True, False, True], [False] * 4]
    # without thresholds, as `band`: floor(4/3) = 1 off each end
    assert kept_positions([0.1, 0.5, 0.9, 0.7], config) == [1, 3]


def test_running_thresholds_are_moving_averages_of_two_quantiles():
    third = Fraction(1, 3)
    # 0 1 2 3: rank 3 * 1/3 = 1 and 3 * 2/3 = 2
    first = running_thresholds(torch.tensor([3.0, 0.0, 2.0, 1.0]), third, third, None)
    assert first == (1.0, 2.0)
    # 0 3 6 9: 3 and 6; .9 * 1 + .1 * 3 = 1.2, .9 * 2 + .1 * 6 = 2.4
    then = running_thresholds(torch.tensor([9.0, 3.0, 0.0, 6.0]), third, third, first)
    assert then == pytest.approx((1.2, 2.4))
    # between ranks: 0 10 at shares .2 and .1: 2 and 9
    unequal = running_thresholds(torch.tensor([0.0, 10.0]), Fraction(1, 5), Fraction(1, 10), None)
    assert unequal == pytest.approx((2.0, 9.0))
    assert running_thresholds(torch.zeros(0), third, third, first) == first
    with pytest.raises(ValueError, match="rule quantile needs at least one token"):
        running_thresholds(torch.zeros(0), third, third, None)
