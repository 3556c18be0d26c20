"""Folders of tiny random models as the families publish them: stock config, tokenizer, chat template, processor files.

Nothing is trained; widths are toys; the special tokens, their use in the template and the processor are the families'.
"""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

from saei.tiny import model_dir
from saei.tiny.build import build_tokenizer
from tests import sampler_models

ROWS_COLUMNS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
IDEFICS_SPECIAL = (
    "<|im_start|>", "<|im_end|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>",
    *ROWS_COLUMNS,
)  # fmt: skip
IDEFICS_PROCESSOR = {
    "do_convert_rgb": True, "do_image_splitting": True, "do_normalize": True, "do_pad": True, "do_rescale": True,
    "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "max_image_size": {"longest_edge": 32},
    "resample": 1, "rescale_factor": 1 / 255, "size": {"longest_edge": 128},
}  # fmt: skip
TILE_TOKENS = 4  # 32 / 8 = 4 patches a side, 2 x 2 of them to a token


def idefics_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE like SmolLM2's, with the special tokens of SmolVLM; two line breaks are one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    text = ["User: What is the sum of the row?\n\n", "Assistant: the answer is \\boxed{7}\n\n", "System: think\n\n"]
    tokenizer.train_from_iterator(text * 20, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in IDEFICS_SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|im_end|>",
        chat_template=DEFAULT_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def _idefics(name: str, folder: Path) -> None:
    tokenizer = idefics_tokenizer()
    config = sampler_models.FAMILIES[name](torch.float32).model.config
    config.text_config.vocab_size = len(tokenizer)
    config.text_config.max_position_embeddings = 4096
    config.vision_config.image_size, config.vision_config.patch_size = 32, 8
    token: Any = tokenizer.convert_tokens_to_ids
    config.image_token_id = token("<image>")
    for place in (config, config.text_config):
        place.pad_token_id, place.bos_token_id, place.eos_token_id = token("<|im_end|>"), 0, token("<end_of_utterance>")
    kind = {"idefics3": "Idefics3", "smolvlm": "SmolVLM"}[name]
    _write(folder, config, tokenizer, {**IDEFICS_PROCESSOR, "image_processor_type": f"{kind}ImageProcessor"})
    settings = {"image_seq_len": TILE_TOKENS, "processor_class": f"{kind}Processor"}
    (folder / "processor_config.json").write_text(json.dumps(settings))


# The chat template of InternVL3-hf (MIT, OpenGVLab), without its videos.
INTERNVL_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'text' %}"
    "{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
INTERNVL_SPECIAL = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")


def _internvl(name: str, folder: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(INTERNVL_SPECIAL)})
    tokenizer.chat_template = INTERNVL_TEMPLATE
    config = sampler_models.FAMILIES[name](torch.float32).model.config
    config.text_config.vocab_size = len(tokenizer)
    config.vision_config.image_size, config.vision_config.patch_size = (32, 32), (8, 8)
    config.image_token_id = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    config.image_seq_length = TILE_TOKENS
    processor = {
        "crop_to_patches": False, "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "max_patches": 12, "min_patches": 1,
        "image_processor_type": "GotOcr2ImageProcessor", "resample": 3, "rescale_factor": 1 / 255,
        "size": {"height": 32, "width": 32},
    }  # fmt: skip
    _write(folder, config, tokenizer, processor)
    settings = {"image_seq_length": TILE_TOKENS, "processor_class": "InternVLProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(settings))


def _qwen(name: str, folder: Path) -> None:
    tokenizer = build_tokenizer()
    config = sampler_models.FAMILIES[name](torch.float32).model.config
    config.text_config.vocab_size = len(tokenizer)
    token: Any = tokenizer.convert_tokens_to_ids
    config.image_token_id, config.video_token_id = token("<|image_pad|>"), token("<|video_pad|>")
    config.vision_start_token_id, config.vision_end_token_id = token("<|vision_start|>"), token("<|vision_end|>")
    processor = json.loads((model_dir() / "preprocessor_config.json").read_text())
    if name == "qwen3_vl":
        processor |= {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    config.vision_config.patch_size = processor["patch_size"]
    if name == "qwen2_5_vl":
        config.vision_config.window_size = 56
    _write(folder, config, tokenizer, processor)


def _write(folder: Path, config: Any, tokenizer: PreTrainedTokenizerFast, processor: dict[str, Any]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


BUILDERS = {
    "qwen2_5_vl": _qwen,
    "qwen2_vl": _qwen,
    "qwen3_vl": _qwen,
    "smolvlm": _idefics,
    "idefics3": _idefics,
    "internvl": _internvl,
}


def build(name: str, folder: Path) -> Path:
    """Write the tiny model of a family (a model type of `saei.families.FAMILIES`) and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    BUILDERS[name](name, folder)
    return folder
