"""The tiny vision-language model that ships with the package: Qwen2.5-VL in under two million weights."""

from pathlib import Path


def model_dir() -> Path:
    """The shipped Hugging Face folder: weights, tokenizer, chat template, image processor, model card."""
    return Path(__file__).parent / "weights"
