"""Image patches are embedded by one matrix product.

The stock towers embed each patch by a convolution whose kernel is the patch. That is a matrix product, and libraries
that look for a convolution are several times slower at it than at the product.
"""

from types import MethodType

import torch
from jaxtyping import Float
from torch import Tensor, nn


def embed_patches_by_matmul(model: nn.Module) -> None:
    """Let every 3-D convolution without overlap or padding take inputs of one kernel's size as a matrix product.

    Names and values of the weights stay as they are; larger inputs are convolved as before.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv3d) and _covers_once(module):
            module.forward = MethodType(_forward, module)


def _covers_once(convolution: nn.Conv3d) -> bool:
    plain = (set(convolution.dilation), convolution.groups, convolution.padding) == ({1}, 1, (0, 0, 0))
    return plain and convolution.kernel_size == convolution.stride


def _forward(
    self: nn.Conv3d, input: Float[Tensor, "patches channels frames height width"]
) -> Float[Tensor, "patches out _ _ _"]:
    if tuple(input.shape[2:]) != self.kernel_size:
        return self._conv_forward(input, self.weight, self.bias)
    embedded = torch.nn.functional.linear(input.flatten(1), self.weight.flatten(1), self.bias)
    return embedded[..., None, None, None]
