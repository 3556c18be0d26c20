"""Hours of a run, from token counts and stated assumptions of speed; never a measurement.

Sampling is bound by memory traffic and by the launches of kernels, everything else by arithmetic. A device's peak and
its bandwidth are those of its data sheet; what share of them a run reaches is assumed.
"""

from dataclasses import dataclass
from typing import Any

from saei.config import Config
from saei.evidence import share_scored_before
from saei.plan.memory import cache_bytes
from saei.plan.storage import counted
from saei.plan.workload import Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A GPU of the data sheets: dense bf16 arithmetic in FLOP/s, memory traffic in bytes/s."""

    name: str
    flops: float
    traffic: float


A100 = Device(name="A100 80 GB SXM (NVIDIA data sheet)", flops=312e12, traffic=2.039e12)
FLOPS_SHARE = 0.35
"""Assumed share of the peak that packed passes reach; published trainers report 30-50 % on long rows."""
TRAFFIC_SHARE = 0.6
"""Assumed share of the bandwidth that decoding reaches."""
LAYER_S = 1.0e-3
"""Assumed time of one decoder layer for one new token, at least: the launches of its kernels, from Python."""
WORST_SHARE = 0.85
"""Assumed mean length of a wave of completions, of max_new_tokens: a wave lasts as long as its longest row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hours:
    """Seconds of one step by phase, and hours of the run: steps, evaluations, both."""

    step: dict[str, float]
    training: float
    evaluation: float

    @property
    def total(self) -> float:
        return self.training + self.evaluation


def expected_hours(
    config: Config, model: Any, work: Workload, processes: int, *, recompute: bool, device: Device = A100
) -> Hours:
    """The run on `processes` such devices."""
    parameters = counted(model)
    speed = device.flops * FLOPS_SHARE
    problems = config.rollout.problems_per_step / processes
    plan = config.group_plan()
    group = config.group_size
    row = work.prompt + group * work.completion
    forward = 2.0 * parameters / speed  # seconds a token
    own = sum(entry.count for entry in plan if entry.view == "clean")
    step = {
        "sampling": sum(_sampling(config, model, work, problems, entry.count, device) for entry in plan),
        "prefill": len(plan) * problems * work.prompt * forward,
        "old log-probs": problems * row * forward * share_scored_before(config),
        "update": problems * row * 3 * forward * (4 / 3 if recompute else 1),
    }
    if config.changes_inputs and config.view.name in ("egas", "random_sign", "gaussian"):
        passes = 2 * config.view.iterations + 1  # forward and backward of pixels, and the ledger's entropies afterwards
        step["attack"] = problems * (work.prompt + own * work.completion) * passes * forward
    training = config.steps * sum(step.values()) / 3600
    return Hours(step=step, training=training, evaluation=_evaluation(config, model, work, processes, device))


def _sampling(config: Config, model: Any, work: Workload, problems: float, count: int, device: Device) -> float:
    """Seconds: waves of `batch_rows` rows, each as long as its longest."""
    rows = min(config.rollout.batch_rows, problems * count)
    waves = problems * count / rows if rows else 0.0
    mean_columns = work.prompt + config.rollout.max_new_tokens * WORST_SHARE / 2
    moved = counted(model) * model.dtype.itemsize + cache_bytes(model, int(rows), int(mean_columns))
    layers = model.config.get_text_config().num_hidden_layers
    token = max(moved / (device.traffic * TRAFFIC_SHARE), LAYER_S * layers)
    return waves * config.rollout.max_new_tokens * WORST_SHARE * token


def _evaluation(config: Config, model: Any, work: Workload, processes: int, device: Device) -> float:
    """Hours of all evaluations: `samples` and one greedy completion a problem."""
    times = len(range(0, config.steps, config.eval.every)) if config.eval.every else 0
    test = config.eval.test_problems or ALL_TEST
    problems = (config.eval.problems * (times + 1) + test) / processes
    return _sampling(config, model, work, problems, config.eval.samples + 1, device) / 3600


ALL_TEST = 1000
"""Assumed problems of a whole test split (Geometry3K 601, MMK12 2,000)."""


def assumptions(device: Device = A100) -> str:
    """What the hours rest on, in a sentence."""
    return (
        f"{device.name}: {device.flops / 1e12:.0f} TFLOP/s bf16, {device.traffic / 1e12:.2f} TB/s; assumed: "
        f"{FLOPS_SHARE:.0%} of the arithmetic, {TRAFFIC_SHARE:.0%} of the traffic, at least {LAYER_S * 1e3:g} ms a "
        f"layer and new token, waves of completions {WORST_SHARE:.0%} of rollout.max_new_tokens long"
    )
