"""Patches embedded by a matrix product against torch's own convolution."""

import copy
import pickle

import torch
from torch import nn

from saei.patch_matmul import embed_patches_by_matmul


def test_the_product_equals_the_convolution_with_its_gradients():
    torch.manual_seed(0)
    stock = nn.Conv3d(3, 8, kernel_size=(2, 4, 4), stride=(2, 4, 4), dtype=torch.float64)
    ours = nn.Conv3d(3, 8, kernel_size=(2, 4, 4), stride=(2, 4, 4), dtype=torch.float64)
    ours.load_state_dict(stock.state_dict())
    embed_patches_by_matmul(ours)
    results = []
    for convolution in (stock, ours):
        patches = torch.randn(
            5, 3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        ).requires_grad_()
        out = convolution(patches)
        out.square().sum().backward()
        assert convolution.bias is not None
        results.append((out, patches.grad, convolution.weight.grad, convolution.bias.grad))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert results[1][0].shape == (5, 8, 1, 1, 1)


def test_other_inputs_and_other_convolutions_stay_convolutions():
    overlapping = nn.Conv3d(1, 2, kernel_size=2, stride=1)
    embed_patches_by_matmul(overlapping)
    assert type(overlapping) is nn.Conv3d
    blocks = nn.Conv3d(1, 2, kernel_size=2, stride=2)
    larger = torch.randn(1, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = blocks(larger)
    embed_patches_by_matmul(blocks)
    assert torch.equal(blocks(larger), expected) and expected.shape == (1, 2, 2, 2, 2)


def test_a_model_that_embeds_so_can_be_copied_and_pickled():
    stock = nn.Sequential(nn.Conv3d(1, 2, kernel_size=2, stride=2))
    embed_patches_by_matmul(stock)
    patch = torch.randn(3, 1, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    for again in (copy.deepcopy(stock), pickle.loads(pickle.dumps(stock))):
        assert torch.equal(again(patch), stock(patch))
