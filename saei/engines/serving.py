"""The life of a run's engine: started with the policy's first weights, renewed with the later ones, always ended."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saei.engines.served import WORKERS, ServedEngine
from saei.settings.material import ModelConfig
from saei.settings.sampling import RolloutConfig
from saei.sharding import whole


@contextmanager
def engine_serving(
    policy: Any,
    rollout: RolloutConfig,
    model: ModelConfig,
    version: int,
    *,
    out: str = "",
    rank: int = 0,
    log: Callable[[str], None] = print,
    between: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Inside, `policy.engine` is the engine that `rollout.engine` names, with the weights of now as `version`.

    `out` is the run directory; "": weights go through a temporary folder. `between` is called about once a second
    while the engine is waited for. Nothing happens where the trainer samples itself.
    """
    if rollout.engine not in WORKERS:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="saei-") as temporary:
        folder = _folder(rollout.engine_folder, out, temporary)
        engine = ServedEngine(rollout, model, folder, rank=rank, log=log, between=between)
        try:
            with whole(policy):
                engine.hand_over(policy, version)
            log(
                f"completions by {engine.name}: seeded one by one, so arms of a sweep are not paired token by token; "
                "log-probs are the trainer's own"
            )
            policy.engine = engine
            yield
        finally:
            policy.engine = None
            engine.close()


def renew(policy: Any, version: int, *, due: bool = True) -> None:
    """Give the policy's engine, if it has one, the weights of now, unless it has them or it is not `due`."""
    if policy.engine is not None and due and policy.engine.version != version:
        with whole(policy):
            policy.engine.hand_over(policy, version)


def _folder(chosen: str, out: str, temporary: str) -> Path:
    """Where weights are handed over; of its own for each run directory, so that a later launch may clear it."""
    if not chosen:
        return Path(out or temporary) / "engine"
    return Path(chosen) / ("engine-" + hashlib.sha256(str(Path(out or temporary).absolute()).encode()).hexdigest()[:12])
