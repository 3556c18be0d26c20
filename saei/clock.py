"""Seconds spent in each phase of a step, by name."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """`with clock("sample"): ...` adds to `clock.seconds["sample"]`; GPU work is waited for."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def total(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self._start
