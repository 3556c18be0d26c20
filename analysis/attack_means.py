"""The `attack_means` table: what the attacks of a run came to, one row per run, from its `attacks` rows.

Every figure of an attack's gain and size is about runs; a thousand runs have millions of attacked images.
"""

# pandas carries no types that a checker can follow
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

from pathlib import Path

import pandas as pd
import pyarrow as pa

from analysis.parts import read_run_table

ATTACK_MEANS = {
    # means over the run's attacked images; NaN where none has a value
    "images": "int64",
    "measured": "int64",  # images whose fresh completions were sampled
    "levels": "float64",  # largest change of a pixel channel, grey levels
    "l2": "float64",  # of the change, full range 1
    "moved": "float64",  # share of images of which a pixel changed
    "touched_share": "float64",
    "zero_gradient_share": "float64",
    "clipped_share": "float64",
    "tokens_kept": "float64",
    "tokens_total": "float64",
    "same": "float64",  # nats: entropy of the kept tokens, moved minus clean image, on the same completions
    "fresh": "float64",  # nats: the same for completions sampled afresh, over all their tokens
    "moves_text": "bool",  # embeddings of the question, not pixels
}
READ = (
    "linf", "l2", "touched_share", "zero_gradient_share", "clipped_share", "entropy_before", "entropy_after",
    "tokens_kept", "tokens_total", "moved", "text_l2", "fresh_entropy_clean", "fresh_entropy_moved",
)  # fmt: skip


def read_run_attack_means(folder: Path) -> pa.Table | None:
    """ATTACK_MEANS of one run, None where it has attacked nothing. Raises ValueError as `read_run_table`."""
    rows = read_run_table(folder, "attacks", READ)
    return None if rows is None or not len(rows) else means(rows.to_pandas())


def means(rows: pd.DataFrame) -> pa.Table:
    """ATTACK_MEANS of the READ columns of one run's `attacks`."""
    fresh = rows["fresh_entropy_moved"] - rows["fresh_entropy_clean"]
    made = {
        "images": len(rows),
        "measured": int(fresh.count()),
        "levels": 255 * rows["linf"].mean(),
        "same": (rows["entropy_after"] - rows["entropy_before"]).mean(),
        "fresh": fresh.mean(),
        "moves_text": bool((rows["text_l2"].fillna(0) > 0).any()),
    }
    columns = {name: [made[name] if name in made else float(rows[name].mean())] for name in ATTACK_MEANS}
    return pa.table(columns)
