"""TRL's own GRPOTrainer as a contender: the stock class, configured as its guide on speed advises.

What of that advice this hardware cannot follow is listed by `cannot_run`, with the reason.
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.util import find_spec
from typing import Any

import numpy as np
from datasets import Dataset, List, disable_progress_bars
from datasets import Image as ImageFeature
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PrinterCallback,
)
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging as transformers_logging
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from saei.config import Config
from saei.policy import Policy
from saei.reward import Scorer
from saei.tiny import model_dir
from saei.types import Problem


class PictureProcessor(Qwen2_5_VLProcessor):
    """The stock processor without its video half, which cannot be built where torchvision is not installed."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def processor(config: Config) -> PictureProcessor:
    """Tokenizer and picture half of the shipped model's processor, with the run's pixel limits."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir(), padding_side="left")
    size = {"shortest_edge": config.data.min_pixels, "longest_edge": config.data.max_pixels}
    pictures = AutoImageProcessor.from_pretrained(model_dir(), size=size)
    return PictureProcessor(pictures, tokenizer, chat_template=tokenizer.chat_template)


def cannot_run() -> dict[str, str]:
    """What TRL's guide on speed advises, or the stock classes have, and is not used here; and why."""
    lacks = {name: "" if find_spec(name) else " and is not installed" for name in ("vllm", "liger_kernel")}
    return {
        "use_vllm": f"needs a GPU{lacks['vllm']}; the step is timed on the CPU",
        "use_liger_kernel": f"Triton kernels: needs a GPU{lacks['liger_kernel']}; the step is timed on the CPU",
        "flash attention, Hub kernels": "need a GPU; sdpa on both sides",
        "use_transformers_continuous_batching": "TRL has it for text only",
        "bf16": "float32 on both sides",
        "torch_compile": "not in the guide, and compiled for minutes before the first step: try --trl-options",
        "the processor's video half": "needs torchvision, and no problem has a video: stock picture half, tokenizer",
    }


def trl_arguments(config: Config, policy: Policy, per_device: int, steps: int, out: str) -> dict[str, Any]:
    """Arguments of GRPOConfig that make its step the one of `config`, and as fast as TRL goes; others are defaults."""
    rollout, optim = config.rollout, config.optim
    completions = rollout.problems_per_step * config.group_size
    return {
        "output_dir": out,
        "max_steps": steps,
        # the step of `config`
        "num_generations": config.group_size,
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": completions // per_device,
        "max_completion_length": rollout.max_new_tokens,
        "temperature": rollout.temperature,
        "top_p": rollout.top_p,
        "generation_kwargs": {"suppress_tokens": sorted(policy.suppressed_token_ids)},
        "shuffle_dataset": False,
        "loss_type": "dapo",
        "optim": "adamw_torch_fused",
        "learning_rate": optim.lr,
        "lr_scheduler_type": "constant",
        "adam_beta2": optim.beta2,
        "weight_decay": optim.weight_decay,
        "max_grad_norm": optim.max_grad_norm,
        # speed
        "gradient_checkpointing": False,
        "disable_dropout": True,
        "bf16": False,
        "use_cpu": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def dataset(problems: Sequence[Problem]) -> Dataset:
    """TRL's columns, pictures stored uncompressed, so that reading them costs it next to nothing."""
    rows = {
        "prompt": [[{"role": "user", "content": problem.question}] for problem in problems],
        "images": [[{"bytes": _bitmap(image), "path": None} for image in problem.images] for problem in problems],
        "problem_id": [problem.problem_id for problem in problems],
    }
    return Dataset.from_dict(rows).cast_column("images", List(ImageFeature()))


def _bitmap(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(file, format="BMP")
    return file.getvalue()


def graded(scorer: Scorer, problems: Sequence[Problem]) -> Any:
    """Our reward, by the scorer that ours uses too, as a reward function of TRL's."""
    by_id = {problem.problem_id: problem for problem in problems}

    def reward(completions: list[Any], problem_id: list[str], **_: Any) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        return [scorer.reward(grade) for grade in scorer.grade(texts, [by_id[one] for one in problem_id])]

    return reward


def stock_model(config: Config) -> Any:
    """The shipped weights as transformers loads them: nothing of ours in the model."""
    transformers_logging.disable_progress_bar()
    return AutoModelForImageTextToText.from_pretrained(model_dir(), dtype=config.model.dtype)


def trainer(arguments: Mapping[str, Any], config: Config, scorer: Scorer, problems: Sequence[Problem]) -> Any:
    """The stock trainer on the shipped weights; `problems` in the order of the steps that will train on them."""
    disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL still needs the old name of activation checkpointing
        made = GRPOTrainer(
            model=stock_model(config),
            reward_funcs=graded(scorer, problems),
            args=GRPOConfig(**arguments),
            train_dataset=dataset(problems),
            processing_class=processor(config),
        )
    made.remove_callback(PrinterCallback)
    return made


def not_default(made: Any) -> dict[str, Any]:
    """What of a trainer's whole configuration differs from GRPOConfig's defaults; its output folder left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        default = GRPOConfig(output_dir="", bf16=False, use_cpu=True)  # its own default for bf16 is refused on a CPU
    chosen: dict[str, Any] = {"bf16": False, "use_cpu": True}
    for field in fields(made.args):
        value = getattr(made.args, field.name)
        if value != getattr(default, field.name) and field.name not in ("output_dir", "logging_dir", "run_name"):
            chosen[field.name] = str(value) if hasattr(value, "value") else value
    return chosen
