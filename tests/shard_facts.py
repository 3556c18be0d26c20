"""What is true of a sharded policy in the middle of a run, measured there by each process, beside one that is whole.

Stands in the place of `update_policy` (see process_child.py) with the groups and the evidence of a real step. Each
process leaves `facts-<rank>.json` in the run directory; process 1 then warns itself that it has to end.
"""

import json
import os
import signal
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from saei.distributed import ALONE
from saei.evidence import train_batch
from saei.policy import load_policy
from saei.recomputing import recompute_layers
from saei.seeding import torch_generator
from saei.sharding import shard, sharded_bytes, whole, whole_value

COLLECTIVES = ("reduce_scatter_single", "all_gather_single", "all_reduce")


class Recording(torch.optim.SGD):
    """Keeps the gradients that it is given, whole, and changes nothing."""

    def __init__(self, policy) -> None:
        self.named = dict(policy.model.named_parameters())
        self.gradients: dict[str, torch.Tensor | None] = {}
        super().__init__(self.named.values(), lr=0.0)

    def step(self, closure=None) -> None:
        self.bytes = sum(g.numel() * g.element_size() for g in map(own_part, self.named.values()) if g is not None)
        self.gradients = {n: None if p.grad is None else whole_value(p.grad) for n, p in self.named.items()}


def own_part(parameter):
    grad = parameter.grad
    return grad.to_local() if hasattr(grad, "to_local") else grad


@contextmanager
def counting():
    """How often each of torch's collectives was called inside; objects and tokens travel by others."""
    calls, originals = Counter(), {name: getattr(dist, name) for name in COLLECTIVES}

    def counted(name):
        def call(*arguments, **options):
            calls[name] += 1
            return originals[name](*arguments, **options)

        return call

    for name in COLLECTIVES:
        setattr(dist, name, counted(name))
    try:
        yield calls
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def gap(one, other) -> float:
    """Largest difference between two sets of gradients, relative to the largest number of each tensor.

    Where that is below a millionth of the largest of all (a key's bias has gradient 0), relative to this millionth.
    """
    assert one.keys() == other.keys()
    assert {n for n in one if one[n] is None} == {n for n in other if other[n] is None}
    floor = 1e-6 * max(float(g.abs().max()) for g in other.values() if g is not None)
    gaps = [
        float((one[n] - other[n]).abs().max() / other[n].abs().max().clamp(min=floor))
        for n in one
        if other[n] is not None
    ]
    return max(gaps)


def measured(original, policy, optimizer, groups, evidence, config, generator, *, first, world):
    facts: dict[str, Any] = {"weights": sharded_bytes(policy.model)["weights"]}
    counters = policy.tokens_forward, policy.tokens_backward
    alone = load_policy(config.model, config.data)
    facts["weights_of_one"] = sharded_bytes(alone.model)["weights"]

    def update(who, some, where):
        recorder, before = Recording(who), (who.tokens_backward, who.packed_forwards)
        draws = torch_generator(config.seed, "loss", 0, 0)
        result = original(who, recorder, some, evidence, config, draws, first=first, world=where)
        return recorder, result, who.tokens_backward - before[0]

    text = [group_without_image(policy, groups[0]), *groups[1:]]
    cases = {"three groups": groups, "one group": groups[:1], "with and without image": text, "text": text[:1]}
    for name, some in cases.items():
        with counting() as calls:
            parts, ours, tokens = update(policy, some, world)
        one, theirs, all_tokens = update(alone, some, ALONE)
        facts[name] = {
            "gap": gap(parts.gradients, one.gradients),
            "norms": (ours.grad_norm, theirs.grad_norm),
            "losses": (ours.loss, theirs.loss),
            "tokens": (world.sums(tokens)[0], all_tokens),
            "reductions": calls["reduce_scatter_single"],
            "without gradient": sum(g is None for g in one.gradients.values()),
        }
        facts.setdefault("gradients", parts.bytes)
    recompute_layers(policy.model)
    again, _, _ = update(policy, groups, world)
    policy.model.gradient_checkpointing_disable()
    truth, _, _ = update(alone, groups, ALONE)
    facts["recomputed"] = gap(again.gradients, truth.gradients)
    facts |= {
        "attack": attacked(policy, alone, groups, world),
        "narrow": narrow(config, original, update, groups, world),
    }
    policy.tokens_forward, policy.tokens_backward = counters
    result = original(policy, optimizer, groups, evidence, config, generator, first=first, world=world)
    facts["optimizer"] = sharded_bytes(policy.model, optimizer)["optimizer"]
    facts["estimated"] = sharded_bytes(policy.model)["optimizer"]
    (Path(config.out) / f"facts-{world.rank}.json").write_text(json.dumps(facts))
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGUSR2)
    return result


def group_without_image(policy, group):
    return replace(group, prompt=policy.encode(replace(group.problem, images=())))


def attacked(policy, alone, groups, world):
    """The entropy gradient of images, by process 0 of one group and by process 1 of all."""
    before, checksum = [p.requires_grad for p in policy.model.parameters()], policy.checksum()
    some = groups[:1] if world.rank == 0 else groups
    with counting() as calls, whole(policy):
        calls.clear()  # the weights are here
        gradients = [image_gradient(policy, group) for group in some]
        inside, moved = dict(calls), [p.grad is not None for p in policy.model.parameters()]
    truth = [image_gradient(alone, group) for group in some]
    empty = all(p.is_meta for p in policy.shards.plain.parameters())
    try:
        with whole(policy), policy.frozen():
            raise ArithmeticError
    except ArithmeticError:
        pass
    after = [p.requires_grad for p in policy.model.parameters()]
    return {
        "gap": max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(gradients, truth, strict=True)),
        "collectives": inside,
        "weights with gradient": sum(moved) + sum(p.grad is not None for p in policy.model.parameters()),
        "restored": before == after and all(after) and policy.model is policy.shards.parts,
        "freed": empty and all(p.is_meta for p in policy.shards.plain.parameters()),
        "same weights": policy.checksum() == checksum,
    }


def image_gradient(policy, group):
    (request,) = train_batch([group], "clean").requests
    pixels = (request.images[0].double() / 255).requires_grad_()
    with policy.frozen():
        (scores,) = policy.score(
            [replace(request, images=(pixels,))], temperature=1.0, pack_tokens=4096, entropy_grad=True
        )
        (gradient,) = torch.autograd.grad(torch.cat([score.entropy for score in scores]).sum(), pixels)
    return gradient


def narrow(config, original, update, groups, world):
    """bfloat16 passes on float32 parts: of what type everything is, and whether an update of 1e-6 is kept."""
    policy = load_policy(replace(config.model, dtype="bfloat16"), config.data)
    shard(policy, world, "cpu", torch.float32)
    recorder, result, _ = update(policy, groups, world)
    weights = [p for p in policy.model.parameters() if p.requires_grad]
    before = [p.to_local().clone() for p in weights]
    for parameter, gradient in zip(weights, recorder.gradients.values(), strict=True):
        if gradient is not None:
            parameter.data.sub_(torch.sign(parameter) * 1e-6)
    kept = sum(int((a != b.to_local()).sum()) for a, b in zip(before, weights, strict=True))
    with whole(policy):
        passes = sorted({str(p.dtype) for p in policy.model.parameters()})
    return {
        "parts": sorted({str(p.dtype) for p in weights}),
        "gradients": sorted({str(g.dtype) for g in recorder.gradients.values() if g is not None}),
        "passes": passes,
        "norm": result.grad_norm,
        "kept": kept / sum(p.numel() for p in before),
    }
