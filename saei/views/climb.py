"""Projected gradient steps on images in [0, 1], for any objective: what EgAS and the error attack share.

Steps are relative to the image after the resize; iterates stay in float and are rounded to 8 bits once, at the end.
Problems are independent: the gradient of the sum of their objectives is each one's own gradient. All images of a
problem are one point of the space in which norms are taken.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saei.config import ViewConfig
from saei.types import ByteImages, to_bytes
from saei.views.context import ViewContext

Objective = Callable[[int, list[list[Tensor]]], list[Tensor]]
"""(iteration, float images in [0, 1] by problem) -> what to raise, a scalar per problem, differentiable in the images.
A problem whose value does not depend on its images stays where it is."""

# A step counts as cut when this much of it (in [0, 1] units) is lost: far below one level, far above float error.
_CUT = 1e-5

DIRECTIONS = {"ascend": 1.0, "descend": -1.0}


def sign(gradients: list[Tensor]) -> list[Tensor]:
    """The signed step: one unit in every channel with a gradient."""
    return [gradient.sign() for gradient in gradients]


def along(gradients: list[Tensor]) -> list[Tensor]:
    """A step along the gradient itself, as long (L2) as the signed step; none where the gradient is zero."""
    length = _length(gradients)
    unit = _side(gradients) / length if length else 0.0
    return [gradient * unit for gradient in gradients]


def clip(offsets: list[Tensor], radius: float) -> list[Tensor]:
    """To the L-infinity ball."""
    return [offset.clamp(-radius, radius) for offset in offsets]


def shorten(offsets: list[Tensor], radius: float) -> list[Tensor]:
    """To the L2 ball through the corners of the L-infinity ball of `radius`."""
    length, longest = _length(offsets), radius * _side(offsets)
    return [offset * (longest / length) for offset in offsets] if length > longest else offsets


class Norm(NamedTuple):
    """`direction` of a step of size 1 from the gradients, and `project` of offsets from the start into the ball.

    `bounded`: no channel moves further than the radius, so that the rounded image can be held to it as well.
    """

    direction: Callable[[list[Tensor]], list[Tensor]]
    project: Callable[[list[Tensor], float], list[Tensor]]
    bounded: bool


NORMS = {"linf": Norm(sign, clip, bounded=True), "l2": Norm(along, shorten, bounded=False)}

PIXEL_SPACES: dict[str, Callable[[ViewContext], tuple[float, float, float]]] = {
    "raw": lambda context: (1.0, 1.0, 1.0),
    "normalized": lambda context: context.channel_std,
}
"""How long a unit of the space in which the step is measured is, per channel, in [0, 1] units."""


@dataclass(slots=True)
class Climb:
    """One problem under attack. `images` are float iterates in [0, 1]; counts are summed over the iterations.

    `broken` is set by a gradient that is not finite: the images are then the clean ones and stay so. `velocity` is the
    accumulated gradient where `view.momentum` asks for one.
    """

    start: list[Tensor]
    images: list[Tensor]
    seen: int = 0
    zero: int = 0
    cut: int = 0
    broken: bool = False
    velocity: list[Tensor] | None = None

    @property
    def zero_gradient_share(self) -> float:
        return math.nan if self.broken else self.zero / max(self.seen, 1)

    @property
    def clipped_share(self) -> float:
        return self.cut / max(self.seen, 1)


def climb(context: ViewContext, start: Sequence[Sequence[Tensor]], objective: Objective) -> list[Climb]:
    """The iterates from float images `start`. With step 0 or no iteration there is no backward pass."""
    view = context.view
    step = DIRECTIONS[view.direction] * view.step_size * context.strength / 255
    climbs = [Climb(list(images), list(images)) for images in start]
    for iteration in range(view.iterations if step else 0):
        gradients = image_gradients(partial(objective, iteration), [c.images for c in climbs])
        for state, gradient in zip(climbs, gradients, strict=True):
            _advance(state, gradient, step, view, PIXEL_SPACES[view.pixel_space](context))
    return climbs


def image_gradients(
    objective: Callable[[list[list[Tensor]]], list[Tensor]], images: Sequence[Sequence[Tensor]]
) -> list[list[Float[Tensor, "3 _ _"]]]:
    """Gradient of each problem's objective with respect to each of its float images."""
    leaves = [[image.detach().clone().requires_grad_() for image in group] for group in images]
    with torch.enable_grad():
        total = torch.stack(objective(leaves)).sum()
        if not total.requires_grad:
            return [[torch.zeros_like(leaf, requires_grad=False) for leaf in group] for group in leaves]
        # autograd.grad, not backward(): the attack must leave no gradient on the policy.
        flat = iter(
            torch.autograd.grad(
                total, [leaf for group in leaves for leaf in group], allow_unused=True, materialize_grads=True
            )
        )
    return [[next(flat) for _ in group] for group in leaves]


def _advance(
    state: Climb, gradients: list[Tensor], step: float, view: ViewConfig, channels: tuple[float, float, float]
) -> None:
    """One step: ball first, then [0, 1] (the order of torchattacks' PGD). `step` in [0, 1] units, signed."""
    if state.broken or not all(bool(gradient.isfinite().all()) for gradient in gradients):
        state.broken, state.images = True, list(state.start)
        return
    norm = NORMS[view.norm]
    scales = [gradient.new_tensor(channels)[:, None, None] for gradient in gradients]
    slopes = [gradient * scale for gradient, scale in zip(gradients, scales, strict=True)]
    if view.momentum:
        slopes = state.velocity = _accumulated(state.velocity, slopes, view.momentum)
    proposals = [
        image + step * direction * scale
        for image, direction, scale in zip(state.images, norm.direction(slopes), scales, strict=True)
    ]
    inside = proposals
    if view.epsilon is not None:
        offsets = [proposal - start for proposal, start in zip(proposals, state.start, strict=True)]
        offsets = norm.project(offsets, view.epsilon / 255)
        inside = [start + offset for start, offset in zip(state.start, offsets, strict=True)]
    state.images = [image.clamp(0, 1) for image in inside]
    for gradient, proposal, image in zip(gradients, proposals, state.images, strict=True):
        state.seen += gradient.numel()
        state.zero += int((gradient == 0).sum())
        state.cut += int(((image - proposal).abs() > _CUT).sum())


def _accumulated(velocity: list[Tensor] | None, slopes: list[Tensor], momentum: float) -> list[Tensor]:
    """MI-FGSM (arXiv 1710.06081): momentum * velocity + slope / mean|slope|; a zero slope adds nothing."""
    size = math.fsum(float(slope.abs().sum(dtype=torch.float64)) for slope in slopes) / _side(slopes) ** 2
    unit = [slope / size if size else slope for slope in slopes]
    return unit if velocity is None else [momentum * v + u for v, u in zip(velocity, unit, strict=True)]


def _length(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(math.fsum(float(tensor.square().sum(dtype=torch.float64)) for tensor in tensors))


def _side(tensors: Sequence[Tensor]) -> float:
    """Square root of the number of channels: L2 length over size of a signed step."""
    return math.sqrt(sum(tensor.numel() for tensor in tensors))


def rounded(state: Climb, clean: ByteImages, view: ViewConfig) -> ByteImages:
    """To 8 bits; an L-infinity ball of a fractional number of levels is kept by the rounded image too.

    An L2 ball may be left by the rounding, which moves every channel by up to half a level.
    """
    images = tuple(to_bytes(image) for image in state.images)
    if view.epsilon is None or not NORMS[view.norm].bounded:
        return images
    levels = math.floor(view.epsilon)
    deltas = [
        (image.to(torch.int16) - original.to(torch.int16)).clamp(-levels, levels)
        for image, original in zip(images, clean, strict=True)
    ]
    return tuple(
        (original.to(torch.int16) + delta).to(torch.uint8) for original, delta in zip(clean, deltas, strict=True)
    )
