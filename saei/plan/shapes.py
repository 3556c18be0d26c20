"""A model's shapes without its weights: the stock class on torch's `meta` device, where a parameter takes no memory."""

import tomllib
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from saei.config import ModelConfig
from saei.identity import model_source
from saei.patch_matmul import embed_patches_by_matmul

PUBLISHED = Path(__file__).parent / "published.toml"


def stock_config(model: ModelConfig) -> Any:
    """config.json of `model.path`: of a folder, of the hub's cache, or of `published.toml`; no network.

    Raises ValueError, naming `model.path`, where none of them has it.
    """
    source = model_source(model.path)
    try:
        options = {} if isinstance(source, Path) else {"revision": model.revision}
        return AutoConfig.from_pretrained(source, local_files_only=True, **options)
    except (OSError, ValueError) as error:
        table = tomllib.loads(PUBLISHED.read_text())
        if str(source) in table:
            row = dict(table[str(source)])
            return AutoConfig.for_model(row.pop("model_type"), **row)
        raise ValueError(
            f"model.path {model.path!r}: its shape is not known here. Put its config.json into a folder and name that, "
            f"or download it once; known without: {', '.join(table)} ({type(error).__name__})"
        ) from error


def on_meta(config: Any, dtype: torch.dtype, attention: str = "sdpa") -> Any:
    """The stock model of a config, every parameter on `meta`: exact counts and shapes, no memory, no computing.

    Of a copy: transformers would write the back-end into the config, which may be that of a model in use.
    """
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(deepcopy(config), dtype=dtype, attn_implementation=attention)
    embed_patches_by_matmul(model)
    return model


def thin(config: Any, *, vision_layers: int) -> Any:
    """A copy with the vision tower's true widths and few layers, and next to nothing of a decoder."""
    small = deepcopy(config)
    text, vision = small.get_text_config(), small.vision_config
    for name in ("depth", "num_hidden_layers"):
        if hasattr(vision, name):
            setattr(vision, name, vision_layers)
    text.num_hidden_layers, text.intermediate_size, text.vocab_size = 1, 64, 512
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:1]
    for part in (small, text):
        part.pad_token_id = None
    return small


def vision_depth(config: Any) -> int:
    """Layers of the vision tower."""
    vision = config.vision_config
    return getattr(vision, "depth", None) or vision.num_hidden_layers
