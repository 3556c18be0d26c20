"""What packing, sampler, head and attention back-ends are worth on a GPU, on random weights: ten minutes, no downloads.

    benchmarks/gpu.sh --scale 3b --out gpu.json

Needs torch and transformers and nothing else that this project installs. First the results are compared with the stock
model's in float32, on a tiny model; then each part runs within its share of `--seconds`, and what did not fit is said.
Ratios are medians of the ratios of rounds, relative to ours; `ratio` above 1 is slower than ours.
"""

import argparse
import sys
from typing import Any

from benchmarks import stand_ins

MISSING = stand_ins.install()


def arguments_of(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu (default: cuda)")
    parser.add_argument("--scale", default="1b", choices=["tiny", "1b", "3b"], help="size of the model (default: 1b)")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="(default: bfloat16)")
    parser.add_argument("--seconds", type=float, default=540.0, help="wall-clock budget (default: 540)")
    parser.add_argument("--rounds", type=int, default=20, help="at most so many rounds a point (default: 20)")
    parser.add_argument("--out", default="", help="write the figures to this JSON file")
    return parser.parse_args(words)


def refusal(device: str) -> str:
    """Why this machine cannot run the benchmark; "" where it can."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        return "torch sees no GPU here; run with --device cpu --scale tiny, or where there is one"
    try:
        from transformers import Qwen2_5_VLForConditionalGeneration
    except ImportError as error:
        return f"transformers has no Qwen2.5-VL ({error}); install transformers 5.23 or newer"
    import inspect

    if "mm_encoder_outputs" not in inspect.signature(Qwen2_5_VLForConditionalGeneration.forward).parameters:
        return "transformers is too old: install 5.23 or newer"
    return ""


def facts(arguments: argparse.Namespace) -> dict[str, Any]:
    """Machine, GPU and what was stood in for."""
    import torch

    from benchmarks.timing import machine

    where = machine() | {"stood_in_for": MISSING, "device": arguments.device}
    if arguments.device.startswith("cuda"):
        device = torch.device(arguments.device)
        where["gpu"] = torch.cuda.get_device_name(device)
        where["gpu_memory_gb"] = round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1)
        where["cuda"] = torch.version.cuda
    return where


def show(title: str, rows: list[dict[str, Any]], left_out: str | None) -> None:
    """A plain table: rich need not be there."""
    print(f"\n{title}", flush=True)
    columns = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "why"]
    cells = [columns, *([_shown(row.get(name, "")) for name in columns] for row in rows if "why" not in row)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells if len(cells) > 1 else []:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for row in rows:
        if "why" in row:
            print(f"  {row['point']} {row.get('contender', '')}: {row['why']}")
    if left_out:
        print(f"  {left_out}")


def _shown(value: Any) -> str:
    return str(value)


def _plain(value: Any) -> Any:
    from dataclasses import asdict, is_dataclass

    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def main(words: list[str] | None = None) -> int:
    arguments = arguments_of(words)
    why = refusal(arguments.device)
    if why:
        print(f"error: {why}", file=sys.stderr)
        return 2
    import torch

    from benchmarks import gpu_parts
    from benchmarks.budget import Budget
    from benchmarks.random_model import random_policy
    from benchmarks.stock import stock_policy
    from benchmarks.timing import write_figures

    where = facts(arguments)
    if MISSING:
        print(f"stood in for: {', '.join(MISSING)} (not installed, and not needed here)")
    whole = Budget(arguments.seconds)
    tables = {"Same results": gpu_parts.check(arguments.device)}
    show("Same results", tables["Same results"], None)
    exact = arguments.dtype == "float32"
    policy = random_policy(arguments.scale, arguments.device, getattr(torch, arguments.dtype))
    machine = gpu_parts.Machine(
        policy=policy,
        stock=stock_policy(policy),
        size="tiny" if arguments.scale == "tiny" else "large",
        nats=1e-3 if exact else 0.5,
        gradient=1e-2 if exact else 0.25,
        most_rounds=arguments.rounds,
    )
    weights = sum(weight.numel() for weight in policy.model.parameters())
    print(
        f"\n{arguments.scale}: {weights / 1e9:.3g} billion weights, {arguments.dtype}, {arguments.device}", flush=True
    )
    left, skipped = whole.left, dict[str, list[str]]()
    for title, (part, share) in gpu_parts.PARTS.items():
        budget = Budget(min(left * share, whole.left))
        tables[title] = part(machine, budget)
        skipped[title] = budget.skipped
        show(f"{title}: ms, ratio to ours", tables[title], budget.told())
    settings = {name: value for name, value in vars(arguments).items() if name != "out"}
    plain = {
        title: [{name: _plain(value) for name, value in row.items()} for row in rows] for title, rows in tables.items()
    }
    write_figures(arguments.out, "gpu", where, {"settings": settings, "weights": weights, "tables": plain,
                                                "skipped": skipped})  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
