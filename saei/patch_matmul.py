"""Image patches are embedded by one matrix product.

The stock towers embed each patch by a convolution whose kernel is the patch. That is a matrix product, and libraries
that look for a convolution are several times slower at it than at the product.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PatchProduct(nn.Conv3d):
    """A convolution that takes inputs of exactly one kernel's size as the matrix product that they are."""

    def forward(
        self, input: Float[Tensor, "patches channels frames height width"]
    ) -> Float[Tensor, "patches out _ _ _"]:
        if tuple(input.shape[2:]) != self.kernel_size:
            return super().forward(input)
        embedded = torch.nn.functional.linear(input.flatten(1), self.weight.flatten(1), self.bias)
        return embedded[..., None, None, None]


def embed_patches_by_matmul(model: nn.Module) -> None:
    """Make every stock 3-D convolution without overlap or padding a `PatchProduct`, in place.

    Names and values of the weights stay as they are; one whose forward somebody replaced is left alone.
    """
    for module in model.modules():
        if type(module) is nn.Conv3d and _covers_once(module) and "forward" not in vars(module):
            module.__class__ = PatchProduct


def _covers_once(convolution: nn.Conv3d) -> bool:
    plain = (set(convolution.dilation), convolution.groups, convolution.padding) == ({1}, 1, (0, 0, 0))
    return plain and convolution.kernel_size == convolution.stride
