"""The figures of the model card: accuracy sampled, greedy, with a grey and with another problem's picture; entropy."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from saei.config import DataConfig
from saei.data import load_problems
from saei.types import Problem

# Completions drawn of each validation problem: 256 problems x 4 give a standard error of 0.015.
SAMPLES = 4

Show = Callable[[Sequence[Problem], int], np.ndarray]


def own(problems: Sequence[Problem], index: int) -> np.ndarray:
    """The problem's own picture."""
    return problems[index].images[0]


def grey(problems: Sequence[Problem], index: int) -> np.ndarray:
    """A uniformly grey picture of the same size."""
    return np.full_like(problems[index].images[0], 127)


def another(problems: Sequence[Problem], index: int) -> np.ndarray:
    """The next problem's picture."""
    return problems[(index + 1) % len(problems)].images[0]


@dataclass(frozen=True, slots=True)
class Answers:
    """Accuracy, share of completions of the right form, mean length, and mean entropy (nats, temperature 1)."""

    correct: np.ndarray
    formatted: float
    tokens: float
    entropy: float

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())


class Measurer:
    """A loaded folder that answers problems by the stock `generate`."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.processor = AutoImageProcessor.from_pretrained(folder)

    @torch.no_grad()
    def answer(self, problems: Sequence[Problem], show: Show, *, sample: bool, seed: int, batch: int = 64) -> Answers:
        """One completion of each problem under the picture that `show` gives."""
        correct, formatted, lengths, entropies = [], [], [], []
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for start in range(0, len(problems), batch):
                chunk = range(start, min(start + batch, len(problems)))
                inputs = self.inputs([problems[i].question for i in chunk], [show(problems, i) for i in chunk])
                output = self.model.generate(
                    **inputs,
                    max_new_tokens=64,
                    do_sample=sample,
                    return_dict_in_generate=True,
                    output_logits=True,
                    suppress_tokens=None,
                )
                ids = output.sequences[:, inputs["input_ids"].shape[1] :]
                log_probs = torch.stack(output.logits, dim=1).float().log_softmax(-1)
                entropy = -(log_probs.exp() * log_probs).sum(-1)
                written = (
                    torch.cumsum(ids == self.tokenizer.eos_token_id, dim=1) - (ids == self.tokenizer.eos_token_id).int()
                )
                entropies.append(entropy[written == 0])
                lengths.extend((written == 0).sum(1).tolist())
                for i, text in zip(chunk, self.tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
                    formatted.append(text.startswith("<think>") and "</think>\\boxed{" in text and text.endswith("}"))
                    correct.append(text.rpartition("\\boxed{")[2].rstrip("}") == problems[i].answer)
        return Answers(
            correct=np.array(correct),
            formatted=float(np.mean(formatted)),
            tokens=float(np.mean(lengths)),
            entropy=float(torch.cat(entropies).mean()),
        )

    def inputs(self, questions: Sequence[str], pictures: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Stock model inputs of a batch: chat template, image placeholders expanded, left padding."""
        texts = []
        vision = self.processor(images=list(pictures), return_tensors="pt")
        for question, grid in zip(questions, vision["image_grid_thw"], strict=True):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            text = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            texts.append(text.replace("<|image_pad|>", "<|image_pad|>" * int(grid.prod() // 4)))
        encoded = self.tokenizer(texts, return_tensors="pt", padding=True)
        return {
            "input_ids": encoded["input_ids"],
            "attention_mask": encoded["attention_mask"],
            "mm_token_type_ids": (encoded["input_ids"] == self.model.config.image_token_id).int(),
            "pixel_values": vision["pixel_values"],
            "image_grid_thw": vision["image_grid_thw"],
        }


def majority_rate(problems: Sequence[Problem], counted: Sequence[Problem]) -> float:
    """Accuracy on `problems` of answering each kind of question with its most frequent answer among `counted`."""
    answers: dict[str, Counter[str]] = {}
    for problem in counted:
        answers.setdefault(problem.kind, Counter())[problem.answer] += 1
    best = {kind: counter.most_common(1)[0][0] for kind, counter in answers.items()}
    return float(np.mean([best[problem.kind] == problem.answer for problem in problems]))


def measure(folder: Path, *, problems: int = 256, seed: int = 0) -> dict[str, int | float]:
    """The card's figures, on `problems` problems of `validation` and `test`."""
    data = DataConfig()
    measurer = Measurer(folder)
    figures: dict[str, int | float] = {
        "parameters": sum(weight.numel() for weight in measurer.model.parameters()),
        "vocabulary": len(measurer.tokenizer),
        "problems": problems,
    }
    validation = load_problems(data, "validation")[:problems]
    draws = [measurer.answer(validation, own, sample=True, seed=seed + draw) for draw in range(SAMPLES)]
    correct = np.mean([draw.correct for draw in draws], axis=0)
    figures |= {
        "validation_accuracy_sampled": float(correct.mean()),
        "validation_accuracy_greedy": measurer.answer(validation, own, sample=False, seed=seed).accuracy,
        "entropy_nats": float(np.mean([draw.entropy for draw in draws])),
        "completion_tokens": float(np.mean([draw.tokens for draw in draws])),
        "formatted_share": float(np.mean([draw.formatted for draw in draws])),
    }
    for kind in sorted({problem.kind for problem in validation}):
        chosen = np.array([problem.kind == kind for problem in validation])
        figures[f"validation_accuracy_sampled_{kind}"] = float(correct[chosen].mean())
    test = load_problems(data, "test")[:problems]
    for name, sample in (("sampled", True), ("greedy", False)):
        figures[f"test_accuracy_{name}"] = measurer.answer(test, own, sample=sample, seed=seed).accuracy
        figures[f"test_accuracy_grey_{name}"] = measurer.answer(test, grey, sample=sample, seed=seed).accuracy
        other = measurer.answer(test, another, sample=sample, seed=seed).accuracy
        figures[f"test_accuracy_other_image_{name}"] = other
    figures["test_majority_rate"] = majority_rate(test, load_problems(data, "train")[:4000])
    return figures
