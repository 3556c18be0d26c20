"""The sbatch command of one run: what `python sweeps/run.py` would submit for it, without a runner."""

import math
import shlex

from saei.config import Config

WARNING_S = 300
"""Warning before the time limit: longer than a step of a small model; a large one's own step time where longer."""


def sbatch_command(config: Config, words: list[str], *, gpus: int, nodes: int, hours: float, step_s: float) -> str:
    """Ready to be pasted, but for partition and account. `gpus` per node; one process a GPU; a job is requeued."""
    warning = min(3600, max(WARNING_S, math.ceil(1.5 * step_s / 60) * 60))
    limit = min(24, max(2, math.ceil(hours * 1.25)))
    out = [] if any(word.partition("=")[0] == "--out" for word in words) else ["--out", config.out]
    train = shlex.join(["python", "-u", "-m", "saei.train", *words, *out])
    srun = f"srun --kill-on-bad-exit=1 --cpus-per-task=8 {train}"
    return " \\\n  ".join(
        [
            f"sbatch --nodes={nodes} --gpus-per-node={gpus} --ntasks-per-node={gpus} --cpus-per-task=8 --mem=0",
            f"--time={limit}:00:00 --signal=USR2@{warning} --requeue --open-mode=append --job-name=saei",
            "--partition=PARTITION --account=ACCOUNT",
            f"--wrap {shlex.quote(srun)}",
        ]
    )
