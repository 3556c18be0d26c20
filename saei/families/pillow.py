"""The stock image processor, on Pillow, where torchvision is installed too: its resize takes other inputs and rounds
otherwise, and images must not depend on what is installed.
"""

from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor


def image_processor(source: Path | str, **options: Any) -> Any:
    """That of a folder or a hub id; `options` replace its settings. Raises as `from_pretrained` does."""
    return AutoImageProcessor.from_pretrained(source, backend="pil", **options)
