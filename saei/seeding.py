"""Randomness as an argument: one counter-based stream per purpose, no global generator.

A stream is keyed by (seed, purpose, *parts); the position inside it is the counter. Nothing else enters the key, so
changing the batch, the attack or the number of completions reshuffles nothing, and the arms of a sweep are paired:
completion 3 of problem p at step s meets the same uniforms whichever view it sees (DESIGN 5).
"""

import hashlib

import numpy as np
import torch

PURPOSES = ("sampling", "evaluation", "fresh", "data", "attack", "selection", "warmstart", "loss", "score", "adapter")


def stream(seed: int, purpose: str, *parts: int | str) -> np.random.Generator:
    """The numpy generator of one stream: Philox, whose key is a hash of the arguments."""
    if purpose not in PURPOSES:
        raise ValueError(f"purpose {purpose!r} is not one of {', '.join(PURPOSES)}: add it to saei.seeding.PURPOSES")
    key = hashlib.blake2b(repr((seed, purpose, *parts)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def uniforms(seed: int, purpose: str, step: int, problem_id: str, index: int, length: int) -> np.ndarray:
    """`length` uniforms in [0, 1), float64, for the token positions 0..length-1 of one completion."""
    return stream(seed, purpose, step, problem_id, index).random(length)


def torch_generator(seed: int, purpose: str, *parts: int | str, device: str = "cpu") -> torch.Generator:
    """A torch generator seeded from the same key, for masks and pixel noise."""
    state = int(stream(seed, purpose, *parts).integers(0, 2**63 - 1))
    return torch.Generator(device=device).manual_seed(state)
