"""Model families: everything that knows an architecture, one short file per kind and a row for each model type.

To add a family, write a file with the functions that `Family` names (their meaning is in `family.py`), give its model
types a row in `FAMILIES`, and a builder of a tiny random model to `tests/family_models.py`: `tests/test_families.py`
then holds the codec against the stock image processor, prompts against the stock processor, packed scores and
gradients against the plain forward, and the sampler against `generate`. Nothing else changes.
"""

from typing import Any

from saei.families.family import Codec, Family
from saei.families.qwen import QWEN_VL

FAMILIES: dict[str, Family] = {"qwen2_vl": QWEN_VL, "qwen2_5_vl": QWEN_VL, "qwen3_vl": QWEN_VL}
"""`model_type` of config.json -> what is known of it."""


def family_of(model: Any) -> Family:
    """The family of a stock model, or of its config.

    Raises ValueError, naming the model type, for one that no family covers.
    """
    model_type = getattr(model, "config", model).model_type
    if model_type not in FAMILIES:
        raise ValueError(
            f"its model type is {model_type}, and packing knows {', '.join(FAMILIES)}: a packed row needs the model's "
            "image layout, placeholders, positions and decoder, which saei/families/__init__.py says how to add"
        )
    return FAMILIES[model_type]


__all__ = ["FAMILIES", "Codec", "Family", "family_of"]
