"""One of the processes of a trial whose completions come from engines of `tests.engine_fake`; torchrun starts it."""

import sys
from pathlib import Path

from saei.engines import served
from saei.engines.process import Worker
from saei.train import train
from tests.runs import small_config

if __name__ == "__main__":
    served.WORKERS["vllm"] = Worker("tests.engine_fake", alone=False)
    train(
        small_config(
            Path(sys.argv[1]),
            "grpo",
            steps=2,
            eval__every=0,
            model__device="cpu",
            rollout__engine="vllm",
            rollout__engine_python=sys.executable,
            rollout__engine_options=("shift=-0.25",),
        )
    )
