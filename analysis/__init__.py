"""From what runs have left on disk to intervals, verdicts, figures and the report. No torch."""

from typing import Any


def __getattr__(name: str) -> Any:
    """`analysis.load_trl`, read when it is asked for: a status command must not wait for pandas."""
    if name == "load_trl":
        from analysis.trl_logs import load_trl

        return load_trl
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
