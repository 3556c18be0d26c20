"""The tiled head against the softmax of all logits and autograd, and what it keeps, makes and leaves to the module."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import saei.head
from saei.head import KEPT_VALUES, head_scores, is_plain, softmax_scores, tile_bytes

TOKENS, VOCABULARY, WIDTH = 23, 61, 16
TOLERANCE = {torch.float64: (1e-12, 1e-10), torch.float32: (1e-6, 1e-5)}  # of values, of gradients
SMALL = (5, 7)  # neither divides the other's count


class Sizes(TorchDispatchMode):
    """The number of values of every tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[torch.Size] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.shapes += [one.shape for one in torch.utils._pytree.tree_leaves(result) if isinstance(one, Tensor)]
        return result

    def largest(self) -> int:
        return max(shape.numel() for shape in self.shapes)


@pytest.fixture
def tiles(monkeypatch):
    def choose(tile: tuple[int, int], kept: int) -> None:
        monkeypatch.setattr(saei.head, "TILES", {"cpu": tile})
        monkeypatch.setattr(saei.head, "KEPT_VALUES", kept)

    return choose


def case(dtype: torch.dtype, scale: float = 0.5, tokens: int = TOKENS, vocabulary: int = VOCABULARY):
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(WIDTH, vocabulary, bias=False)
    head.weight.data = (scale * torch.randn(vocabulary, WIDTH, generator=generator, dtype=torch.float64)).to(dtype)
    states = torch.randn(tokens, WIDTH, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    return head, states, targets, torch.randn(2, tokens, generator=generator, dtype=torch.float64)


def gradients(scores, states: Tensor, head: nn.Module, factors: Tensor) -> list[Tensor]:
    """Of the states and the weight, of a sum of log-probs, and entropies if they have a gradient, times `factors`."""
    some = [value for value in scores if value.requires_grad]
    loss = sum((value * factor).sum() for value, factor in zip(some, factors.to(some[0]), strict=False))
    weights = [p for p in head.parameters() if p.requires_grad]
    return list(torch.autograd.grad(loss, [states, *weights]))  # pyright: ignore[reportArgumentType]


def gap(ours: Tensor, theirs: Tensor) -> float:
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("kept", [0, 10**6], ids=["made again", "kept"])
@pytest.mark.parametrize("tile", [SMALL, (512, 2048)], ids=["many tiles", "one tile"])
@pytest.mark.parametrize("entropy_grad", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.9])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_values_and_gradients_are_those_of_the_whole_softmax(dtype, temperature, entropy_grad, tile, kept, tiles):
    tiles(tile, kept)
    head, states, targets, factors = case(dtype)
    ours = head_scores(head, states, targets, temperature=temperature, entropy_grad=entropy_grad)
    theirs = softmax_scores(head, states, targets, temperature=temperature, entropy_grad=entropy_grad)
    assert [v.requires_grad for v in ours] == [v.requires_grad for v in theirs] == [True, entropy_grad, False]
    of_values, of_gradients = TOLERANCE[dtype]
    for own, other in zip(ours, theirs, strict=True):
        assert own.dtype == other.dtype and gap(own, other) < of_values
    pairs = (gradients(scores, states, head, factors) for scores in (ours, theirs))
    for own, other in zip(*pairs, strict=True):
        assert own.dtype == other.dtype and gap(own, other) < of_gradients


@pytest.mark.parametrize("kept", [0, 10**6], ids=["made again", "kept"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_gradients_equal_finite_differences(temperature, kept, tiles):
    tiles(SMALL, kept)
    head, states, targets, _ = case(torch.float64, tokens=6, vocabulary=9)

    def values(states: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return saei.head._TiledHead.apply(states, weight, targets, temperature, True, bool(kept))[:2]

    assert torch.autograd.gradcheck(values, (states, head.weight), atol=1e-8, rtol=1e-6)


def test_in_bfloat16_values_are_those_of_the_softmax_and_gradients_at_least_as_near_the_truth_as_autograds(tiles):
    tiles(SMALL, 0)  # 5 x 9 tiles whose products are summed
    head, states, targets, factors = case(torch.bfloat16)
    truth_head, truth_states, *_ = case(torch.float64)
    truth_head.weight.data = head.weight.data.double()
    truth_states = states.detach().double().requires_grad_()
    truth = gradients(
        softmax_scores(truth_head, truth_states, targets, temperature=1.0, entropy_grad=True),
        truth_states,
        truth_head,
        factors,
    )
    ours = head_scores(head, states, targets, temperature=1.0, entropy_grad=True)
    theirs = softmax_scores(head, states, targets, temperature=1.0, entropy_grad=True)
    for own, other in zip(ours, theirs, strict=True):
        assert own.dtype == torch.float32 and gap(own, other) < 1e-6
    both = [gradients(scores, states, head, factors) for scores in (ours, theirs)]
    for own, other, true in zip(*both, truth, strict=True):
        assert own.dtype == other.dtype == torch.bfloat16
        assert float((own.double() - true).norm()) <= 1.05 * float((other.double() - true).norm())


def test_sharp_distributions_are_as_near_the_truth_as_the_whole_softmax(tiles):
    tiles((16, 64), 0)
    for scale in (0.1, 1.0, 4.0):  # nearly uniform to nearly certain
        head, states, targets, _ = case(torch.float32, scale, vocabulary=500)
        with torch.no_grad():
            ours = head_scores(head, states, targets, temperature=0.8, entropy_grad=False)
            theirs = softmax_scores(head, states, targets, temperature=0.8, entropy_grad=False)
            truth = softmax_scores(head.double(), states.double(), targets, temperature=0.8, entropy_grad=False)
        for own, other, true in zip(ours, theirs, truth, strict=True):
            error = float((own - true).abs().max())
            assert error <= 2 * float((other - true).abs().max()) + 1e-6


def test_no_tensor_has_all_logits_and_nothing_is_kept_but_the_states_and_numbers_for_each_token(tiles):
    tiles(SMALL, 0)
    head, states, targets, factors = case(torch.float32)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t), Sizes() as forward:
        scores = head_scores(head, states, targets, temperature=0.7, entropy_grad=True)
    assert forward.largest() <= max(head.weight.numel(), states.numel()) < TOKENS * VOCABULARY
    assert {tuple(t.shape) for t in kept} == {(TOKENS, WIDTH), (VOCABULARY, WIDTH), (TOKENS,)}
    with Sizes() as backward:
        gradients(scores, states, head, factors)
    assert backward.largest() <= head.weight.numel()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_buffers_of_a_device_have_the_bytes_that_are_said_of_them(dtype):
    states, weight = (torch.empty(rows, WIDTH, dtype=dtype, device="meta") for rows in (10_000, 150_000))
    tiles = saei.head._Tiles(states, weight)
    held = sum(one.nbytes for one in (tiles._buffers, tiles._narrow) if one is not None)
    assert held + KEPT_VALUES * max(4, dtype.itemsize) == tile_bytes(dtype, "meta") < 2**30


def test_without_gradients_nothing_is_kept_even_where_it_would_fit(tiles):
    tiles(SMALL, 10**6)
    head, states, targets, _ = case(torch.float32)
    with torch.no_grad(), Sizes() as made:
        scores = head_scores(head, states, targets, temperature=1.0, entropy_grad=True)
    assert not any(value.requires_grad for value in scores)
    assert made.largest() < TOKENS * VOCABULARY


@pytest.mark.parametrize("kept", [0, 10**6], ids=["made again", "kept"])
def test_a_frozen_weight_gets_no_gradient_and_none_is_computed(kept, tiles):
    tiles(SMALL, kept)
    head, states, targets, factors = case(torch.float32)
    (expected, _) = gradients(
        softmax_scores(head, states, targets, temperature=1.0, entropy_grad=True), states, head, factors
    )
    head.requires_grad_(False)
    scores = head_scores(head, states, targets, temperature=1.0, entropy_grad=True)
    with Sizes() as made:
        (gradient,) = gradients(scores, states, head, factors)
    assert gap(gradient, expected) < 1e-5
    assert tuple(head.weight.shape) not in {tuple(shape) for shape in made.shapes}


@pytest.mark.parametrize("kept", [0, 10**6], ids=["made again", "kept"])
def test_a_second_backward_pass_gives_the_same_gradient(kept, tiles):
    tiles(SMALL, kept)
    head, states, targets, _ = case(torch.float32)
    logprobs, entropy, _ = head_scores(head, states, targets, temperature=1.0, entropy_grad=True)
    first = torch.autograd.grad(entropy.sum(), states, retain_graph=True)[0]
    (alone,) = torch.autograd.grad(logprobs.sum(), states, retain_graph=True)
    assert torch.equal(torch.autograd.grad(entropy.sum(), states, retain_graph=True)[0], first)
    assert gap(torch.autograd.grad(entropy.sum() + logprobs.sum(), states)[0], first + alone) < 1e-5


def test_a_tied_weight_gets_the_gradient_of_both_its_uses():
    head, _, targets, factors = case(torch.float64)
    embedding = nn.Embedding(VOCABULARY, WIDTH)
    embedding.weight = head.weight  # pyright: ignore
    both = []
    for scores_of in (head_scores, softmax_scores):
        states = embedding(targets.roll(1)).tanh()
        logprobs, entropy, _ = scores_of(head, states, targets, temperature=1.0, entropy_grad=True)
        both += torch.autograd.grad((factors[0] * logprobs + factors[1] * entropy).sum(), head.weight)
    assert gap(*both) < 1e-10


def test_no_token_has_no_score_and_a_gradient_of_0():
    head, states, targets, factors = case(torch.float32, tokens=0)
    scores = head_scores(head, states, targets, temperature=1.0, entropy_grad=True)
    assert [value.shape for value in scores] == [(0,)] * 3
    of_states, of_weight = gradients(scores, states, head, factors)
    assert of_states.shape == (0, WIDTH) and not of_weight.any()


class Capped(nn.Linear):
    """A head with a softcap of its own, as some families have it."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * torch.tanh(super().forward(input) / 2)


def with_bias() -> nn.Module:
    return nn.Linear(WIDTH, VOCABULARY)


def with_hook() -> nn.Module:
    head = nn.Linear(WIDTH, VOCABULARY, bias=False)
    head.register_forward_hook(lambda module, given, logits: logits * 2)
    return head


def with_adapter() -> nn.Module:
    holder = nn.Module()
    holder.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["head"], init_lora_weights=False), holder)
    return holder.head


def with_other_forward() -> nn.Module:
    head = nn.Linear(WIDTH, VOCABULARY, bias=False)
    original = head.forward
    head.forward = lambda input: original(input) / 3
    return head


OTHERS = {
    "bias": with_bias,
    "softcap": lambda: Capped(WIDTH, VOCABULARY, bias=False),
    "hook": with_hook,
    "adapter": with_adapter,
    "forward": with_other_forward,
}


@pytest.mark.parametrize("values", [10**6, 5 * VOCABULARY], ids=["at once", "five tokens at a time"])
@pytest.mark.parametrize("name", OTHERS)
def test_a_head_that_is_more_than_a_product_is_called_as_a_module(name, values, monkeypatch):
    monkeypatch.setattr(saei.head, "CHUNK_VALUES", values)
    torch.manual_seed(0)
    head = OTHERS[name]()
    _, states, targets, factors = case(torch.float32)
    assert not is_plain(head, states)
    ours = head_scores(head, states, targets, temperature=0.7, entropy_grad=True)
    log_p = torch.log_softmax(head(states) / 0.7, dim=-1)
    theirs = log_p.gather(1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)
    for own, other in zip(ours[:2], theirs, strict=True):
        assert gap(own, other) < 1e-6
    for own, other in zip(*(gradients(s, states, head, factors) for s in (ours, theirs)), strict=True):
        assert gap(own, other) < 1e-5


def test_a_head_under_autocast_or_of_another_type_than_the_states_is_called_as_a_module():
    head, states, *_ = case(torch.float32)
    assert is_plain(head, states)
    assert not is_plain(head, states.to(torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_plain(head, states)
