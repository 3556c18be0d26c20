"""Which tokens are kept: worked tables, exact fractions, ties, scopes."""

from fractions import Fraction

import pytest
import torch

from saei.config import SelectConfig
from saei.seeding import torch_generator
from saei.select import RULES, bands, kept_count, select_tokens

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
        for rule in RULES:
            own = {"drop_low": drop, "drop_high": drop} if rule == "band" else {"share": share}
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
    counts = sum(draw(entropy, str(i))[:30].int() for i in range(300))
    assert int(counts.min()) > 60 and int(counts.max()) < 140


def test_the_random_rule_without_a_generator_and_an_unknown_rule_are_refused():
    with pytest.raises(ValueError, match=r"select\.rule random .* generator"):
        select_tokens([torch.zeros(3)], SelectConfig(rule="random"))
    with pytest.raises(ValueError, match=r"select\.rule is one of band, all, top"):
        select_tokens([torch.zeros(3)], SelectConfig(rule="upper"))
