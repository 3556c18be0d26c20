"""A policy without a model, and engines of `tests.engine_faults` to serve it."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saei.config import ModelConfig, RolloutConfig
from saei.engines import served
from saei.engines.process import Worker
from saei.engines.served import ServedEngine
from saei.engines.wire import EngineRule
from saei.types import Prompt, SampleRequest

RULE = EngineRule(temperature=1.0, top_p=1.0, max_new_tokens=4, end=(7,), suppressed=(9,), vocabulary=10)


@dataclass
class RotePolicy:
    image_token_id: int = 9
    weights: int = 0

    def image_tokens(self, image: Any) -> list[int]:
        return [8, *[self.image_token_id] * image.shape[-1]]

    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_text(str(self.weights))


def rote_policy() -> Any:
    return RotePolicy()


def rote_engine(folder: Path, *, timeout_s: float = 20.0, restarts: int = 1, **options: Any) -> ServedEngine:
    served.WORKERS["vllm"] = Worker("tests.engine_faults", alone=False)
    entries = tuple(f"{name}={json.dumps(str(value))}" for name, value in options.items())
    rollout = RolloutConfig(
        engine="vllm",
        engine_python=sys.executable,
        engine_options=entries,
        engine_timeout_s=timeout_s,
        engine_restarts=restarts,
    )
    return ServedEngine(rollout, ModelConfig(), folder / "engine")


def request(token_ids: tuple[int, ...] = (2, 3), count: int = 2, images: tuple = ()) -> SampleRequest:
    prompt = Prompt(problem_id="p", token_ids=token_ids, images=images)
    return SampleRequest(prompt=prompt, images=images, indices=tuple(range(count)))
