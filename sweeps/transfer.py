"""Does what is learnt on digits carry over? Shifted digits, drawn shapes, and easy-VQA where its folder is there.

easy-VQA is read from `$SAEI_DATA/easy_vqa`, by default `../shared/data/easy_vqa` beside the project; without it the
sweep runs on the other sets and says so.
"""

import logging
import os
from pathlib import Path

from saei.presets import PRESETS
from sweeps.definition import FOLDER, GRPO, Sweep

EASY_VQA = Path(os.environ.get("SAEI_DATA", FOLDER.parent.parent / "shared" / "data")).resolve() / "easy_vqa"


def transfer_entries(easy_vqa: Path) -> tuple[str, ...]:
    """What `eval.transfer` names; a warning where the folder of real pictures is absent."""
    entries = ("shapes/test", "shapes/more_shapes", "shapes/other_colours", "shapes/outlined")
    if (easy_vqa / "test.jsonl").is_file():
        return (*entries, f"local/test/{easy_vqa}")
    logging.getLogger(__name__).warning(
        "easy-VQA is left out: there is no %s; set SAEI_DATA to the folder of real data", easy_vqa / "test.jsonl"
    )
    return entries


SWEEP = Sweep(
    question="Trained on digits, which method is best on shifted digits, on drawn shapes and on easy-VQA?",
    base={"eval.transfer": transfer_entries(EASY_VQA), "eval.shifted_problems": 128},
    arms={
        "grpo": GRPO,
        "saei": {},
        "noisyrollout": PRESETS["noisyrollout"].settings,
        "random_sign": PRESETS["random_sign"].settings,
    },
    baseline="grpo",
    primary_contrast=("saei", "grpo"),
)
