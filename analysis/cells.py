"""Numbers as the text of a table's cell: percent, points, intervals, p, tokens, seconds."""

import math

from analysis.verdicts import ALPHA

EMPTY = "–"


def percent(share: float) -> str:
    return EMPTY if math.isnan(share) else f"{100 * share:.1f} %"


def points(share: float, *, signed: bool = False) -> str:
    """A difference of accuracies in percentage points, with a true minus sign."""
    if math.isnan(share):
        return EMPTY
    return f"{100 * share:{'+' if signed else ''}.1f}".replace("-", "−")


def interval_text(low: float, high: float) -> str:
    return EMPTY if math.isnan(low) else f"{points(low, signed=True)} to {points(high, signed=True)}"


def p_text(p: float) -> str:
    if math.isnan(p):
        return EMPTY
    if p < 0.001:
        return "< 0.001"
    # a verdict turns on which side of ALPHA it lies, so that is told
    return f"{p:.3f}" if f"{p:.3f}" != f"{ALPHA:.3f}" else f"{p:.5f}"


def nats(entropy: float) -> str:
    return EMPTY if math.isnan(entropy) else f"{entropy:.3f}"


def amount(count: float) -> str:
    """A number of tokens in at most three digits and a unit; thousands k, millions M, billions G."""
    if math.isnan(count):
        return EMPTY
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 0.9995 * size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.3g}"


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 0.31 s, 42 s, 3.5 min, 2.1 h."""
    if math.isnan(seconds):
        return EMPTY
    if seconds < 60:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{seconds / 3600:.3g} h"
