"""Attention over a shared prefix against plain attention over a copy of it in every row."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from saei.shared_prefix import SharedPrefixes

HEADS, KV_HEADS, WIDTH, COLUMNS = 4, 2, 8, 6


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def plain(keys, values, attended, prefix_of_row, query, key, value):
    """Every row with its own copy of the prefix, padding masked."""
    rows, own = len(prefix_of_row), key.shape[2]
    all_keys, all_values = (
        torch.cat([keys[prefix_of_row], key], dim=2),
        torch.cat([values[prefix_of_row], value], dim=2),
    )
    mask = torch.cat([attended[prefix_of_row], torch.ones(rows, own, dtype=torch.bool)], dim=1)[:, None, None]
    return scaled_dot_product_attention(query, all_keys, all_values, mask, enable_gqa=True).transpose(1, 2)


@pytest.mark.parametrize(
    "prefix_of_row",
    [
        [0, 0, 0, 1, 1, 1, 2, 2, 2],  # side by side, as a step begins
        [0, 2, 1, 0, 1],  # uneven and out of order, as rows end
        [2, 2],  # most prefixes have no row left: these are dropped
        [1],
    ],
)
def test_rows_attend_as_with_a_copy_of_their_prefix(prefix_of_row):
    keys, values = numbers(3, KV_HEADS, COLUMNS, WIDTH, seed=0), numbers(3, KV_HEADS, COLUMNS, WIDTH, seed=1)
    attended = torch.tensor([[False, False, True, True, True, True], [True] * 6, [False, True, True, True, True, True]])
    shared = SharedPrefixes([keys], [values], attended)
    everyone = torch.tensor([0, 1, 2])
    for of_row in (everyone, torch.tensor(prefix_of_row)):  # rows leave between two steps
        shared.seat(of_row)
        rows = len(of_row)
        query = numbers(rows, HEADS, 1, WIDTH, seed=2)
        key, value = numbers(rows, KV_HEADS, 4, WIDTH, seed=3), numbers(rows, KV_HEADS, 4, WIDTH, seed=4)
        found = shared.attend(0, query, key, value, WIDTH**-0.5)
        torch.testing.assert_close(found, plain(keys, values, attended, of_row, query, key, value), atol=1e-12, rtol=0)


def test_prefixes_without_rows_are_dropped_once_they_are_half_of_all():
    keys = numbers(4, KV_HEADS, COLUMNS, WIDTH, seed=0)
    shared = SharedPrefixes([keys], [keys], torch.ones(4, COLUMNS, dtype=torch.bool))
    shared.seat(torch.tensor([0, 1, 3]))
    assert len(shared._keys[0]) == 4
    shared.seat(torch.tensor([3, 1, 3]))
    assert torch.equal(shared._keys[0], keys[[1, 3]])
