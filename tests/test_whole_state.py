"""Gathering and reading: what a process takes is its own, and where memory runs out half-way, nothing stays behind."""

import pytest
import torch
from torch.optim import AdamW

from saei.distributed import ALONE
from saei.sharding import Shards, _empty_copy, _owners
from saei.whole_state import WholeOptimizer


def test_states_that_were_read_from_a_mapped_file_do_not_live_in_it(tmp_path):
    def trained():
        weight = torch.nn.Parameter(torch.ones(4, 4))
        optimizer = AdamW([weight])
        weight.grad = torch.full((4, 4), 2.0)
        optimizer.step()
        return optimizer

    first, second = trained(), trained()
    torch.save(first.state_dict(), tmp_path / "optimizer.pt")
    tree = torch.load(tmp_path / "optimizer.pt", weights_only=True, mmap=True)
    WholeOptimizer(second, keep=True).load_state_dict(tree)
    (taken,), (kept,) = second.state.values(), first.state.values()
    for name, value in tree["state"][0].items():
        assert torch.equal(taken[name], kept[name])
        assert taken[name].untyped_storage().data_ptr() != value.untyped_storage().data_ptr(), name


def test_weights_that_could_not_all_be_gathered_are_dropped(monkeypatch):
    shards = Shards.__new__(Shards)
    shards.world, shards.parts, shards._depth = ALONE, torch.nn.Sequential(torch.nn.Linear(2, 2)), 0
    shards._types = {name: parameter.dtype for name, parameter in shards.parts.named_parameters()}
    shards.plain = _empty_copy(shards.parts, torch.device("cpu"))
    shards._owners = _owners(shards.plain)
    calls = []

    def second_one_fails(tensor):
        calls.append(tensor)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tensor.detach()

    with monkeypatch.context() as patched, pytest.raises(torch.OutOfMemoryError):
        patched.setattr("saei.sharding.whole_value", second_one_fails)
        with shards.gathered():
            pass
    assert len(calls) == 2 and all(p.is_meta for p in shards.plain.parameters())
    with shards.gathered() as model:  # and the next time all are there
        assert torch.equal(model[0].weight, shards.parts[0].weight)
    assert all(p.is_meta for p in shards.plain.parameters())
