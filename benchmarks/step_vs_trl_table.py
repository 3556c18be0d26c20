"""The tables of `step_vs_trl`: seconds and ratios, phases, distance to the floor, and how TRL was configured."""

from typing import Any

from rich.console import Console
from rich.table import Table

SMALLEST_SHARE = 0.005
NAMES = {"trl": "TRL", "ours": "ours", "floor": "floor"}


def show(result: dict[str, Any]) -> None:
    """Print everything, to be read at 120 columns."""
    console = Console(width=120)
    workloads = result["workloads"]
    threads = result["settings"]["threads"]
    console.print(_seconds(workloads, threads))
    console.print(_phases(workloads))
    console.print(_floor(workloads))
    console.print(_memory_and_batches(workloads))
    console.print(_configuration(workloads))
    console.print(_left_out(result["cannot_run"]))


def _seconds(workloads: list[dict[str, Any]], threads: int) -> Table:
    title = f"One GRPO step, {threads} thread(s): median and quartiles of the rounds; ratios are medians too"
    table = Table(
        "pixels", "image\ntokens", "problems x completions\nx tokens", "rounds", "TRL, s", "ours, s", "floor, s",
        "TRL /\nours", "ours /\nfloor", "TRL /\nfloor", title=title,
    )  # fmt: skip
    for own in workloads:
        size = own["completions"] // own["problems"]
        table.add_row(
            str(own["pixels"]),
            f"{own['image_tokens']:,}",
            f"{own['problems']} x {size} x {own['length']}",
            str(own["seconds"]["trl"]["rounds"]),
            *(_spread(own["seconds"][name]) for name in ("trl", "ours", "floor")),
            *(
                f"{own['ratios'][name]['median']:.2f}\n({own['cpu_ratios'][name]['median']:.2f})"
                for name in ("trl/ours", "ours/floor", "trl/floor")
            ),
        )
    table.caption = "A ratio in brackets is that of computed seconds, which other load on the machine disturbs less."
    return table


def _spread(of: dict[str, Any]) -> str:
    return f"{of['median']:.3g}\n({of['low']:.3g} to {of['high']:.3g})"


def _phases(workloads: list[dict[str, Any]]) -> Table:
    table = Table("pixels", "", "share of the step", title="Phases")
    for own in workloads:
        for name in ("trl", "ours"):
            phases, whole = own["phases"][name], sum(own["phases"][name].values())
            shares = sorted(((value / whole, phase) for phase, value in phases.items()), reverse=True)
            text = ", ".join(f"{phase} {share:.0%}" for share, phase in shares if share >= SMALLEST_SHARE)
            table.add_row(str(own["pixels"]), NAMES[name], text)
    return table


def _floor(workloads: list[dict[str, Any]]) -> Table:
    """Where the time over the floor is: rollout and update against the plain passes that they need."""
    title = "Against the floor: tokens of the step through plain passes of the stock model"
    columns = ("pixels", "phase", "tokens", "plain tokens/s", "floor, s", "ours, s", "TRL, s", "TRL's tokens")
    table = Table(*columns, title=title)
    for own in workloads:
        floor, tokens = own["phases"]["floor"], own["tokens"]["floor"]
        ours, theirs = own["phases"]["ours"], own["phases"]["trl"]
        prompts = own["completions"] * own["prompt_tokens"]
        update = theirs["forward"] + theirs["backward"] + theirs["optimizer"]
        seconds: dict[str, tuple[float | None, float | None]] = {
            "prefill": (None, None),
            "decode": (ours["sample"], theirs["generate"]),
            "old log-probs": (ours["old_logprobs"], 0.0),
            "update": (ours["update"], update),
        }
        of_trl = {
            "prefill": prompts,
            "decode": tokens["decode"],
            "update": prompts + own["completions"] * own["length"],
        }
        for phase, both in seconds.items():
            known = (tokens[phase], tokens[phase] / floor[phase]) if phase in floor else (0, None)
            table.add_row(
                str(own["pixels"]),
                phase,
                f"{known[0]:,}",
                "" if known[1] is None else f"{known[1]:,.0f}",
                f"{floor.get(phase, 0.0):.3g}",
                *("" if value is None else f"{value:.3g}" for value in both),
                f"{of_trl.get(phase, 0):,.0f}",
            )
    table.caption = (
        "Decode: seconds of ours and TRL with the prefill. Old log-probs: a step of one update needs none, and TRL "
        "skips them. Update: with clipping and the optimizer. Attention to the cache is not in the floor."
    )
    return table


def _memory_and_batches(workloads: list[dict[str, Any]]) -> Table:
    title = "Peak of memory over what was held before (warm-up round), and TRL's micro-batch (tried: seconds of a row)"
    columns = ("pixels", "TRL, MB", "ours, MB", "per_device_train_batch_size", "tried", "log-probs differ by")
    table = Table(*columns, title=title)
    for own in workloads:
        peaks = [own["grown_mb"][name] for name in ("trl", "ours")]
        table.add_row(
            str(own["pixels"]),
            *("not told here" if peak is None else f"{peak:,.0f}" for peak in peaks),
            str(own["trl_batch"]),
            ", ".join(f"{batch}: {seconds:.3g}" for batch, seconds in own["trl_seconds_per_row"].items()),
            f"{own['logprob_difference']:.1e}",
        )
    return table


def _configuration(workloads: list[dict[str, Any]]) -> Table:
    table = Table("GRPOConfig, what is not its default", *(f"{own['pixels']} pixels" for own in workloads))
    names = dict.fromkeys(name for own in workloads for name in own["trl_config"])
    for name in names:
        table.add_row(name, *(str(own["trl_config"].get(name, "default")) for own in workloads))
    return table


def _left_out(reasons: dict[str, str]) -> Table:
    table = Table("advised or possible, not used", "why")
    for name, reason in reasons.items():
        table.add_row(name, reason)
    return table
