"""TRL's trainer on the shipped model and real digits problems, as a user would set it up."""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from datasets import Image as ImageFeature
from datasets import List as ListFeature
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.processing_utils import ProcessorMixin

from saei.config import DataConfig, RewardConfig
from saei.data import load_problems
from saei.reward import Scorer
from saei.tiny import model_dir
from saei.types import Problem

DATA = DataConfig(train_size=64)


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


def processor() -> PictureProcessor:
    """Tokenizer and picture half of the shipped model, with the pixel limits that our runs have."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir(), padding_side="left")
    size = {"shortest_edge": DATA.min_pixels, "longest_edge": DATA.max_pixels}
    pictures = AutoImageProcessor.from_pretrained(model_dir(), size=size)
    return PictureProcessor(pictures, tokenizer, chat_template=tokenizer.chat_template)


def problems(count: int) -> list[Problem]:
    """The first training problems of the digits."""
    training = load_problems(DATA, "train")
    return [training[number] for number in range(count)]


def dataset(chosen: list[Problem]) -> Dataset:
    """TRL's columns `prompt` and `images`, and what the reward reads."""
    rows = {
        "prompt": [[{"role": "user", "content": problem.question}] for problem in chosen],
        "images": [[Image.fromarray(np.asarray(image)) for image in problem.images] for problem in chosen],
        "name": [problem.problem_id for problem in chosen],
    }
    return Dataset.from_dict(rows).cast_column("images", ListFeature(ImageFeature()))


def name_of(chosen: list[Problem]) -> Any:
    """The problem id of a prompt, by its question."""
    names = {problem.question: problem.problem_id for problem in chosen}
    assert len(names) == len(chosen)
    return lambda prompt: names[prompt[0]["content"][-1]["text"]]


def graded(chosen: list[Problem], heard: list[dict[str, Any]] | None = None) -> Any:
    """Our reward as a reward function of TRL's; `heard` collects the arguments of each call."""
    by_name = {problem.problem_id: problem for problem in chosen}

    def our_reward(completions: list[Any], name: list[str], **others: Any) -> list[float]:
        if heard is not None:
            heard.append({"completions": completions, "name": name, **others})
        with Scorer(RewardConfig()) as scorer:
            texts = [completion[0]["content"] for completion in completions]
            return [scorer.reward(grade) for grade in scorer.grade(texts, [by_name[one] for one in name])]

    return our_reward


def trainer(out: Path, chosen: list[Problem], *, kind: Any = None, heard: Any = None, **settings: Any) -> Any:
    """A GRPOTrainer (or `kind` of one); `settings` are GRPOConfig's but `rollout_func`, `eval_dataset`, `callbacks`."""
    from trl import GRPOConfig, GRPOTrainer

    own = {name: settings.pop(name) for name in ("rollout_func", "eval_dataset", "callbacks") if name in settings}
    usual = {
        "per_device_train_batch_size": settings.get("num_generations", 4),
        "max_completion_length": 32,
        "learning_rate": 1e-4,
        "max_steps": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "bf16": False,
        "temperature": 1.0,
        "num_generations": 4,
        "gradient_checkpointing": False,
    }
    return (kind or GRPOTrainer)(
        model=AutoModelForImageTextToText.from_pretrained(model_dir(), dtype="float32"),
        reward_funcs=graded(chosen, heard),
        args=GRPOConfig(output_dir=str(out), **{**usual, **settings}),
        train_dataset=dataset(chosen),
        processing_class=processor(),
        **own,
    )
