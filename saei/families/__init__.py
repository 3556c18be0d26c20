"""Model families: everything that knows an architecture, one short file per kind and a row for each model type.

To add a family, write a file with the functions that `Family` names (their meaning is in `family.py`), give its model
types a row in `FAMILIES`, and a builder of a tiny random model to `tests/sampler_models.py` and, as a folder, to
`tests/family_models.py`: `test_families.py`, `test_packing.py`, `test_sampler.py` and `test_scoring_pairs.py` then hold
it against the stock forward pass and `generate` (packed scores, gradients of weights and pixels, sampling, the
attack), and fail where no packed pass ran. A codec of its own needs a test against its stock image processor, as
`tests/test_families_tiles.py`. Nothing else changes.
"""

from typing import Any

from saei.families.family import Codec, Family
from saei.families.idefics import IDEFICS
from saei.families.internvl import INTERNVL
from saei.families.qwen import QWEN_VL

FAMILIES: dict[str, Family] = {
    "qwen2_vl": QWEN_VL,
    "qwen2_5_vl": QWEN_VL,
    "qwen3_vl": QWEN_VL,
    "idefics3": IDEFICS,
    "smolvlm": IDEFICS,
    "internvl": INTERNVL,
}
"""`model_type` of config.json -> what is known of it."""


def family_of(model: Any) -> Family:
    """The family of a stock model, or of its config. Raises ValueError, naming the model type, where there is none."""
    model_type = getattr(model, "config", model).model_type
    if model_type not in FAMILIES:
        raise ValueError(
            f"its model type is {model_type}, and packing knows {', '.join(FAMILIES)}; what it needs of another "
            "(codec, placeholders, positions, decoder), and where to add it, is told in saei/families/__init__.py"
        )
    return FAMILIES[model_type]


def supported_family(config: Any) -> Family:
    """The family of a model that is about to be loaded.

    Raises ValueError for a model type without a family, and for a text decoder whose layers do not all attend to
    everything before them: a packed row gives every layer the same mask.
    """
    family = family_of(config)
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ()) - {"full_attention"}
    window = getattr(text, "sliding_window", None)
    if not getattr(text, "layer_types", None) and window is not None and window < text.max_position_embeddings:
        kinds = {f"sliding_window {window}"}
    if kinds:
        raise ValueError(
            f"its text decoder {text.model_type} has layers of {', '.join(sorted(kinds))}, and a packed row gives "
            "every layer the mask of full attention; switch the window off in config.json if the model allows it, or "
            "take another model"
        )
    return family


__all__ = ["FAMILIES", "Codec", "Family", "family_of", "supported_family"]
