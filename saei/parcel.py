"""Objects as bytes, between the processes of one trial: tensors travel as their values.

A tensor's own pickle holds its whole storage, of which it may be a small part, and names the sender's GPU. Here it
arrives on the receiver's current device of the same kind. Only for processes that one launcher started: reading a
pickle runs what it says.
"""

import io
import pickle
from typing import Any

import torch
from torch import Tensor


def to_bytes(value: Any) -> bytes:
    """`value` with its tensors; gradients stay behind."""
    sink = io.BytesIO()
    _Pickler(sink, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return sink.getvalue()


def from_bytes(parcel: bytes) -> Any:
    """What was given to `to_bytes`, in this process or another."""
    return pickle.loads(parcel)


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, Tensor):
            return NotImplemented
        values = obj.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return _tensor, (values, obj.dtype, tuple(obj.shape), obj.device.type)


def _tensor(values: bytes, dtype: torch.dtype, shape: tuple[int, ...], device: str) -> Tensor:
    flat = torch.frombuffer(bytearray(values), dtype=dtype) if values else torch.empty(0, dtype=dtype)
    return flat.reshape(shape).to(device)
