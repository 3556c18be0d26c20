"""TRL's trainer takes turns with other contenders, and the phases of its step are timed.

Its own `train()` sets the pace: the others have their turns between two of its steps.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from transformers import TrainerCallback

from benchmarks.turn import Turn, growth, stopwatch

PHASES = ("data", "processor", "generate", "reward", "forward", "backward", "optimizer")
"""What TRL's step is split into; the rest is `other`."""


class PhaseClock:
    """Wraps the methods of a trainer: seconds of every phase of its step, and how long what it generated is."""

    def __init__(self, made: Any) -> None:
        self.seconds: dict[str, float] = {}
        self.lengths: list[int] = []
        self.passed = stopwatch()
        self._inside = False
        accelerator, images = made.accelerator, made.processing_class.image_processor
        self._wrap(made, "_tokenize_prompts", "processor")
        self._wrap(images, "preprocess", "processor")  # once more, for the forward pass of the loss
        self._wrap(made, "_generate_single_turn", "generate")
        self._wrap(made, "_calculate_rewards", "reward")
        self._wrap(made, "_compute_loss", "forward")
        self._wrap(accelerator, "backward", "backward")
        self._wrap(accelerator, "clip_grad_norm_", "optimizer")

    def start(self) -> None:
        """A step begins."""
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.lengths = []
        self.passed = stopwatch()

    def stop(self) -> Turn:
        """The step is over; what belongs to no phase is `other`."""
        total, cpu = self.passed()
        phases = self.seconds | {"other": total - sum(self.seconds.values())}
        return Turn(seconds=total, cpu_seconds=cpu, phases=phases, lengths=tuple(self.lengths))

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        if self._inside:  # a phase within another is part of that one
            yield
            return
        self._inside, start = True, time.perf_counter()
        try:
            yield
        finally:
            self._inside = False
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def _wrap(self, owner: Any, name: str, phase: str) -> None:
        plain = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            with self(phase):
                result = plain(*arguments, **named)
            if phase == "generate":
                self.lengths += [len(ids) for ids in result[0]]
            return result

        setattr(owner, name, timed)


class _Turns(TrainerCallback):
    """After each step of TRL's: its turn is noted, then every other contender has its own.

    The first round is the warm-up: memory is measured then, and only then.
    """

    def __init__(self, clock: PhaseClock, others: Mapping[str, Callable[[], Turn]]) -> None:
        self.clock, self.others = clock, others
        self.turns: dict[str, list[Turn]] = {name: [] for name in ("trl", *others)}
        self._updating = 0.0
        self._grown: Callable[[], float | None] = lambda: None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._begin("trl")
        self.clock.start()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.clock.seconds["data"] += self.clock.passed()[0]

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._updating = time.perf_counter()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.clock.seconds["optimizer"] += time.perf_counter() - self._updating

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._end("trl", self.clock.stop())
        for name, contender in self.others.items():
            self._begin(name)
            self._end(name, contender())
        self.clock.start()

    def _begin(self, name: str) -> None:
        if not self.turns[name]:
            self._grown = growth()

    def _end(self, name: str, turn: Turn) -> None:
        self.turns[name].append(replace(turn, grown_mb=None if self.turns[name] else self._grown()))


def take_turns(made: Any, others: Mapping[str, Callable[[], Turn]]) -> dict[str, list[Turn]]:
    """TRL's `train()` to its end; after each of its steps every other contender has its turn. Round 0 is warm-up."""
    callback = _Turns(PhaseClock(made), others)
    made.add_callback(callback)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.train()
    return callback.turns
