"""What a process takes out of everyone's optimizer states is its own, not a piece of the checkpoint's file."""

import torch
from torch.optim import AdamW

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
