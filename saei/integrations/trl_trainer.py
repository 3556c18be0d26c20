"""What our sampler needs of TRL's GRPOTrainer: its model, its prompts as it will train on them, where it stands.

Written against TRL 1.16, whose `rollout_func` is marked experimental and whose prompts are read by a private method;
another version is refused rather than guessed at.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saei.attention import reads_dense_masks
from saei.config import DataConfig
from saei.integrations.trl_columns import COLUMNS
from saei.policy import Policy
from saei.settings.rules import require
from saei.types import ByteImages, Prompt, to_bytes

TRL = "1.16"
LEVEL_ERROR = 0.25
"""Grey levels by which a pixel of the trainer's may differ from a whole one: float32 is 1000 times closer."""


def require_trl() -> None:
    """Raise ImportError, with the command that helps, where TRL is missing or of another version."""
    cure = f"pip install 'trl=={TRL}.*' (or this package's extra: pip install 'saei-workbench[trl]')"
    try:
        found = version("trl")
    except PackageNotFoundError:
        raise ImportError(f"saei.integrations.trl needs TRL {TRL}, and none is installed: {cure}") from None
    if found.split(".")[:2] != TRL.split("."):
        raise ImportError(
            f"saei.integrations.trl is written for TRL {TRL}, whose rollout_func is experimental; {found} is "
            f"installed: {cure}"
        )


def check_trainer(trainer: Any, group_size: int) -> None:
    """Raise ValueError, naming the setting and what to do, for what this sampler would silently do otherwise."""
    require(
        trainer.num_generations == group_size,
        f"GRPOConfig(num_generations={trainer.num_generations}) and the plan of {group_size} completions must agree: "
        f"set num_generations={group_size}, or give rollout_func another plan",
    )
    require(
        trainer._is_vlm,
        f"processing_class {type(trainer.processing_class).__name__} has no image processor: a view changes images, so "
        "the trainer needs a vision-language model and its processor",
    )
    unlike = {
        "use_vllm": (trainer.use_vllm, False),
        "use_transformers_continuous_batching": (trainer.use_transformers_continuous_batching, False),
        "top_k": (trainer.top_k or 0, 0),
        "min_p": (trainer.min_p or 0.0, 0.0),
        "repetition_penalty": (trainer.repetition_penalty, 1.0),
        "generation_kwargs": (trainer.args.generation_kwargs or {}, {}),
    }
    for name, (value, served) in unlike.items():
        require(
            value == served,
            f"GRPOConfig({name}={value!r}) cannot be honoured: completions come from our own sampler on the trainer's "
            f"model, by temperature and top_p alone; leave it at {served!r}",
        )
    require(
        not trainer.tools and trainer.environment_factories is None,
        "tools and environment_factory cannot be combined with rollout_func: a completion is one turn here",
    )
    require(
        trainer.accelerator.num_processes == 1,
        f"{trainer.accelerator.num_processes} processes: sampling inside TRL runs on one; launch with one process, or "
        "use saei.train, which shares a step among processes",
    )
    require(
        trainer.off_policy_mask_threshold is None,
        f"GRPOConfig(off_policy_mask_threshold={trainer.off_policy_mask_threshold!r}) would compare log-probs on the "
        "image that was sampled on with those on the clean one, and drop completions because their image was moved; "
        "leave it at None",
    )
    columns = set(getattr(trainer.train_dataset, "column_names", None) or ())
    require(
        not columns & set(COLUMNS),
        f"the dataset's columns {', '.join(sorted(columns & set(COLUMNS)))} would be overwritten by those of the "
        "rollouts before the reward functions see them: rename them (Dataset.rename_column)",
    )


def trainer_policy(trainer: Any) -> Policy:
    """The trainer's own weights as our policy; a completion ends where TRL says it does. Raises ValueError for a model
    of a family or with an attention that packed groups do not know.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "get_base_model"):  # peft puts the adapters into the stock modules
        model = model.get_base_model()
    attention = model.config.get_text_config()._attn_implementation
    require(
        attention in ("sdpa", "eager") or not reads_dense_masks(model),
        f"model: its attention is {attention}, which takes no mask of a packed group; load it with sdpa, such as "
        "GRPOConfig(model_init_kwargs={'attn_implementation': 'sdpa'})",
    )
    # the pixel limits of the settings are not read: images come resized by the trainer's own processor
    policy = Policy(model, trainer._tokenizer, trainer.processing_class.image_processor, DataConfig())
    policy.end_token_ids = tuple(trainer.eos_token_ids)
    return policy


@contextlib.contextmanager
def as_sampled(trainer: Any) -> Iterator[None]:
    """Inside, the model is in evaluation mode, and computes in the trainer's mixed precision; afterwards each module
    is in the mode it was in.
    """
    learning = [module for module in trainer.model.modules() if module.training]
    trainer.model.eval()
    try:
        with trainer.accelerator.autocast():
            yield
    finally:
        for module in learning:
            module.training = True


def generation_number(trainer: Any) -> int:
    """Rollout batches before this one, of the whole run: what names a step in our random streams."""
    accumulated = trainer.args.gradient_accumulation_steps
    passes = trainer.state.global_step * accumulated + trainer._step % accumulated
    return passes // (trainer.args.steps_per_generation * trainer.num_iterations)


def prompt_groups(prompts: Sequence[Any], size: int) -> list[Any]:
    """One prompt of each group. TRL gives each prompt `size` times in a row. Raises ValueError where it does not, as
    under a sampler of the user's own or where an evaluation batch cuts a group.
    """
    require(
        len(prompts) % size == 0,
        f"{len(prompts)} prompts do not make whole groups of {size}: set per_device_train_batch_size and "
        "per_device_eval_batch_size to multiples of num_generations and num_generations_eval",
    )
    groups = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    for group in groups:
        require(
            len({prompt_hash(prompt) for prompt in group}) == 1,
            f"the trainer's batch does not have each prompt {size} times in a row, as TRL {TRL}'s own sampler has: a "
            "subclass with another order cannot use rollout_func",
        )
    return [group[0] for group in groups]


def prompt_hash(prompt: Any) -> str:
    """16 hex digits of a prompt's words and images."""
    digest = hashlib.sha256()
    for message in prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]:
        content = message["content"]
        digest.update(repr(message["role"]).encode())
        for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
            image = part.get("image")
            if image is not None:
                digest.update(repr((image.mode, image.size)).encode() + image.tobytes())
            else:
                digest.update(repr((part["type"], part.get("text"))).encode())
    return digest.hexdigest()[:16]


def encode_prompts(
    trainer: Any, policy: Policy, prompts: Sequence[Any], problem_id: Callable[[Any], str] | None
) -> list[Prompt]:
    """The prompts as the trainer's forward pass will read them: its token ids, and its images at their final size.

    An image is taken out of the processor's own pixel values, so the clean one is that of the update to the bit.
    Raises ValueError for prompts without an image and for a processor that is not the model's.
    """
    token_ids, images, fields = trainer._tokenize_prompts(list(prompts))
    counts = [len(own or ()) for own in images or [None] * len(prompts)]
    pictures = iter(_byte_images(policy, fields) if sum(counts) else [])
    encoded, seen = [], dict[str, int]()
    for prompt, ids, count in zip(prompts, token_ids, counts, strict=True):
        name = problem_id(prompt) if problem_id else prompt_hash(prompt)
        require(
            count > 0, f"prompt {name} has no image for a view to change; give the dataset a column image or images"
        )
        own = tuple(next(pictures) for _ in range(count))
        found, needed = list(ids).count(policy.image_token_id), sum(policy.codec.tokens(image) for image in own)
        require(
            found == needed,
            f"prompt {name} has {found} image placeholders where its {count} images need {needed}: "
            "processing_class is not the model's own",
        )
        # a row that stands twice in the dataset must not draw the same completions twice
        repeat = seen[name] = seen.get(name, -1) + 1
        encoded.append(
            Prompt(problem_id=f"{name}#{repeat}" if repeat else name, token_ids=tuple(map(int, ids)), images=own)
        )
    return encoded


def _byte_images(policy: Policy, fields: dict[str, Any]) -> ByteImages:
    require(
        {"pixel_values", "image_grid_thw"} <= fields.keys(),
        "the processor gives no pixel_values with image_grid_thw: inside TRL only Qwen-VL models can be sampled from",
    )
    pixel_values = torch.as_tensor(fields["pixel_values"], dtype=torch.float32)
    grids = torch.as_tensor(fields["image_grid_thw"])
    own = pixel_values.split(grids.prod(dim=1).tolist())
    return tuple(_byte_image(policy, patches, grid) for patches, grid in zip(own, grids, strict=True))


def _byte_image(policy: Policy, patches: Float[Tensor, "patches values"], grid: Int[Tensor, " 3"]) -> Tensor:
    image = to_bytes(policy.codec.unpatchify(patches, grid))
    error = (policy.codec.patchify(image) - patches).abs().max().item() * 255 * max(policy.codec.std)
    require(
        error < LEVEL_ERROR,
        f"the pixel values of the processor are not those of an 8-bit image (off by {error:.2g} grey levels): an "
        "attacked image could not be told from a clean one; use the model's own processor",
    )
    return image
