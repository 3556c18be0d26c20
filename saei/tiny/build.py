"""The untrained tiny model: a tokenizer trained on generated text, Qwen2.5-VL at toy widths, a stock processor."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from saei.data.digits import SPLITS, question_of, task_at
from saei.seeding import stream
from saei.tiny.solutions import READ_QUESTION, reading, solution

VOCABULARY = 640
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# As in Qwen3: one token each, kept when special tokens are skipped.
THINK = ("<think>", "</think>")
# The chat template of Qwen2.5-VL-Instruct (Apache-2.0, Qwen team), word for word.
CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Qwen2.5's split, with every digit a piece of its own.
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Words that the generated text lacks and other questions have, so that those encode to fewer tokens.
OTHER_WORDS = (
    "find the value of the angle length area perimeter radius diameter circle triangle square rectangle quadrilateral "
    "parallel perpendicular tangent segment chord arc point figure diagram measure degrees nearest tenth assume appear "
    "which following choose answer option true false number between before after above below left right top bottom "
    "count shape color red blue green yellow black white image picture shows please think step by step final put within"
)
IMAGE_PROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "size": {"shortest_edge": 28 * 28, "longest_edge": 168 * 168},
}


def training_text(seed: int, lines: int = 4000) -> list[str]:
    """The text the tokenizer is trained on: questions, solutions, and what the chat template adds."""
    text = ["system\nYou are a helpful assistant.\n", "user\n", "assistant\n", OTHER_WORDS, READ_QUESTION] * 50
    for index in range(lines):
        split = "unseen_question" if index % 20 == 0 else "train"
        task = task_at(split, index, seed)
        text.append(question_of(task))
        if task.kind in SPLITS["train"].kinds:
            text.append(solution(task, stream(seed, "warmstart", "tokenizer", index), 0.1))
        text.append(reading(task))
    return text


def build_tokenizer(seed: int = 0) -> PreTrainedTokenizerFast:
    """A byte-level BPE of VOCABULARY entries: any text encodes, digits stay single, Qwen's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL) - len(THINK),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # The think tags are tokens of their own, so their pieces are kept out of the merges.
    cleaned = (line.replace("<think>", "").replace("</think>", "\n") for line in training_text(seed))
    tokenizer.train_from_iterator(cleaned, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in THINK])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[token for token in SPECIAL if token not in ("<|im_end|>", "<|endoftext|>")],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL at toy widths: about 1.9M weights, so that float32 fits in 8 MB."""
    token: Any = tokenizer.convert_tokens_to_ids
    width = 160
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": 448,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "initializer_range": 0.05,
            # A small base: at Qwen's 1e6 the column axis, which has the slowest frequencies, turns by under 0.001 a
            # cell, and a model this small does not learn where to look.
            "rope_parameters": {"rope_type": "default", "rope_theta": 20.0, "mrope_section": [4, 8, 8]},
            "bos_token_id": None,
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 2,
            "initializer_range": 0.05,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_heads": 3,
            "out_hidden_size": width,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    return config


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """The model with fresh float32 weights; the draw depends on `seed` only."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(build_config(tokenizer))
    return model.float()


def save(model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the stock Hugging Face folder; it loads with the Auto classes, and without torchvision."""
    folder.mkdir(parents=True, exist_ok=True)
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.generation_config.update(eos_token_id=eos, pad_token_id=pad, do_sample=True, temperature=1.0, top_k=0)
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(IMAGE_PROCESSOR, indent=2) + "\n")
