"""An engine in a process of its own, as the trainer holds it: given weights, asked for completions, started again.

Weights are handed over as a stock Hugging Face folder, complete or not there at all; every reply says which version of
the weights it comes from, and one from another version is refused. An engine that dies or falls silent is started
again with the weights that it had, and is sent the same requests with the same seeds.
"""

import base64
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saei.engines.options import engine_environment, engine_options
from saei.engines.process import EngineLost, EngineProcess, EngineRefused, Worker
from saei.engines.wire import EngineCompletion, EngineRule, check_prompt, checked_completions, messages, png, unexpanded
from saei.settings.material import ModelConfig
from saei.settings.sampling import RolloutConfig
from saei.sharding import whole
from saei.types import Prompt, SampleRequest

VLLM = Worker(
    "saei.engines.vllm_worker",
    package="vllm",
    cure="make vllm-env makes such an environment, whose Python is .venv-vllm/bin/python",
)
WORKERS: dict[str, Worker] = {"vllm": VLLM}
"""`rollout.engine` -> the module that serves it."""
PIXEL_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.016}
"""Largest difference of a normalised pixel value, by model.dtype: rounding. A grey level is 0.014 or more."""


@contextmanager
def _saving_everywhere(policy: Any) -> Iterator[None]:
    """Inside, `save_pretrained` writes on every process; elsewhere transformers writes on the first alone."""
    model: Any = getattr(policy, "model", None)
    if not hasattr(model, "should_save_on_this_rank"):
        yield
        return
    model.should_save_on_this_rank = lambda *_: True
    try:
        yield
    finally:
        del model.should_save_on_this_rank


class ServedEngine:
    """`version` is that of the weights it holds, -1 for none; `between` is called while it is waited for."""

    def __init__(
        self,
        rollout: RolloutConfig,
        model: ModelConfig,
        folder: Path,
        *,
        rank: int = 0,
        log: Callable[[str], None] = print,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self.version, self.log, self.between = -1, log, between
        self.name = ""
        self._rollout, self._model, self._rank = rollout, model, rank
        self._folder = folder.with_name(f"{folder.name}-{rank}-{os.getpid()}").absolute()
        self._process: EngineProcess | None = None
        self._restarts = rollout.engine_restarts
        self._proven = False
        folder.parent.mkdir(parents=True, exist_ok=True)
        for stale in folder.parent.glob(f"{folder.name}-{rank}-*"):  # of a launch that was killed
            shutil.rmtree(stale, ignore_errors=True)
        self._folder.mkdir()

    @property
    def process_id(self) -> int | None:
        """Of the worker; it leads a process group of the same number."""
        return self._process.process.pid if self._process else None

    def hand_over(self, policy: Any, version: int) -> None:
        """Give the engine the policy's weights of now, numbered `version`; it is started at the first time.

        Raises EngineLost, EngineRefused, and BadInput for a Python that is not there or lacks the engine.
        """
        before, self.version = self._weights, version
        with whole(policy), _saving_everywhere(policy):  # each process has an engine, and hands it all weights
            policy.save(self._weights)
        if self._process is None:
            self._start()
        else:
            self._ask_again_if_lost({"kind": "sync", "model": str(self._weights), "version": version}, "synced")
        for weights in before.glob("*.safetensors"):  # the small files stay: an engine may read them again
            if before != self._weights:
                weights.unlink()

    def sample(
        self, policy: Any, requests: Sequence[SampleRequest], seeds: Sequence[Sequence[int | None]], rule: EngineRule
    ) -> list[list[EngineCompletion]]:
        """Completions of every request, one for each of its seeds (None: greedy).

        Raises EngineLost when the engine dies or hangs more often than `rollout.engine_restarts`, EngineRefused for
        answers that cannot be used, and before the first picture is shown where its processor would change it.
        """
        if self._process is None:
            raise RuntimeError("the engine has no weights: call hand_over first")
        pictured = next((request for request in requests if request.images), None)
        if pictured and not self._proven:
            self._prove(policy, pictured)
        completions: list[list[EngineCompletion]] = []
        for part, message in messages(requests, seeds, rule, policy):
            reply = self._ask_again_if_lost(message, "completions")
            try:
                completions += checked_completions(reply, part, rule)
            except EngineRefused:
                self.close()
                raise
        return completions

    def close(self) -> None:
        """End the engine's process group and delete what was handed over."""
        if self._process is not None:
            self._process.end()
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _weights(self) -> Path:
        return self._folder / f"weights-{self.version}"

    def _start(self) -> None:
        if self._process is not None:
            self._process.end()
        self._process = EngineProcess(
            self._rollout.engine_python,
            WORKERS[self._rollout.engine],
            self._folder,
            engine_environment(self._rollout.engine_devices, self._rank),
        )
        reply = self._ask(
            {
                "kind": "start",
                "model": str(self._weights),
                "version": self.version,
                "dtype": self._model.dtype,
                # at temperature 1 both sides can speak of the plain distribution; at others vLLM cannot
                "logprobs": "raw" if self._rollout.temperature == 1 else "processed",
                "options": engine_options(self._rollout.engine_options),
            },
            "ready",
        )
        self.name = str(reply.get("engine"))[:80]

    def _ask_again_if_lost(self, message: dict[str, Any], kind: str) -> dict[str, Any]:
        """The reply; from a new engine where the present one is lost."""
        while True:
            try:
                return self._ask(message, kind)
            except EngineLost as error:
                if self._restarts == 0:
                    used = f"rollout.engine_restarts ({self._rollout.engine_restarts}) are used up"
                    raise EngineLost(f"{error}\n{used}") from error
                self._restarts -= 1
                self.log(f"{error}\nthe engine is started again with the same weights ({self._restarts} times left)")
                self._start_again(error)
                if message["kind"] == "sync":  # it started with them
                    return {}

    def _start_again(self, lost: EngineLost) -> None:
        try:
            self._start()
        except EngineLost as error:
            raise EngineLost(f"{lost}\nand a new one could not be started: {error}") from error

    def _ask(self, message: dict[str, Any], kind: str) -> dict[str, Any]:
        """A reply of this kind, from the weights of now."""
        assert self._process is not None, "an engine is asked after it was started"
        reply = self._process.ask(message, self._rollout.engine_timeout_s, self.between)
        if reply.get("kind") != kind:
            self.close()
            raise EngineRefused(f"the rollout engine answered {message['kind']!r} with {str(reply.get('kind'))[:80]!r}")
        if reply.get("version") != self.version:
            self.close()
            raise EngineRefused(
                f"the rollout engine answered with weights number {str(reply.get('version'))[:80]}, and the policy is "
                f"at {self.version}: completions of other weights are not used"
            )
        return reply

    def _prove(self, policy: Any, request: SampleRequest) -> None:
        """The engine's own processor must leave pictures as they are, and expand placeholders as the trainer does."""
        message = {
            "kind": "pixels",
            "prompt": unexpanded(policy, request.prompt),
            "images": [png(image) for image in request.images],
        }
        try:
            self.check_pixels(policy, request.prompt, request.images, self._ask_again_if_lost(message, "pixels"))
        except EngineRefused:
            self.close()
            raise
        self._proven = True

    def check_pixels(self, policy: Any, prompt: Prompt, images: Any, reply: dict[str, Any]) -> float:
        """The largest difference between the engine's pixel values and ours. Raises EngineRefused above rounding."""
        check_prompt(prompt, reply.get("prompt"))
        ours = torch.cat([policy.codec.patchify(image.cpu()) for image in images])
        ours = ours.to(getattr(torch, self._model.dtype)).float().numpy()
        try:
            theirs = np.frombuffer(base64.b64decode(reply["values"]), np.float32).reshape(reply["shape"])
        except (KeyError, TypeError, ValueError) as error:
            raise EngineRefused(f"the rollout engine sent no pixel values: {error}") from error
        if theirs.shape != ours.shape or not np.isfinite(theirs).all():
            raise EngineRefused(
                f"problem {prompt.problem_id}: the rollout engine makes pixel values of shape {theirs.shape} of an "
                f"image of which the trainer makes {ours.shape}: it resizes it, or has another processor"
            )
        difference = float(np.abs(theirs - ours).max())
        if difference > PIXEL_TOLERANCE[self._model.dtype]:
            raise EngineRefused(
                f"problem {prompt.problem_id}: the rollout engine sees pixel values that differ by {difference:.3g} "
                "from the trainer's (a grey level is 0.014): adversarial images would not reach it as they are"
            )
        return difference
