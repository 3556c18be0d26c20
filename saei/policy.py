"""The policy: a stock transformers vision-language model with its tokenizer and image codec, loaded, asked and saved.

Text from data is never trusted to hold special tokens: what the chat template writes is read with them, what a problem
says is read as plain text, so a question cannot smuggle in an image placeholder or end its own turn.
"""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer
from transformers.utils import logging as transformers_logging

from saei.adapter_folder import ADAPTER_CONFIG, adapter_base
from saei.adapters import adapter_parameters, add_adapter, merge_adapter, merged_state
from saei.attention import implementation, reads_dense_masks, use_blocks
from saei.config import DataConfig, ModelConfig
from saei.data.catalog import prompt_texts
from saei.families import Family, processor_file, supported_family
from saei.identity import model_source
from saei.patch_matmul import embed_patches_by_matmul
from saei.recomputing import recompute_layers
from saei.scoring import Choice, score_chosen, score_pairs, score_requests
from saei.sharding import Shards, whole_value
from saei.types import ByteImages, PairScores, Problem, Prompt, ScoreRequest, TokenScores

_USER, _SYSTEM = "\ue000user\ue000", "\ue000system\ue000"  # stand for the texts while the template is rendered
_IMAGE_MARKER = re.compile(r"<image\d*>")


class Policy:
    """A model and what is needed to talk to it. The counters say how many token positions were passed through it.

    The model given is changed for good: how it attends to packed rows, and how it embeds image patches. Raises
    ValueError for a model that packing does not know, see `families.supported_family`.
    """

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any, data: DataConfig) -> None:
        self.family = supported_family(model.config)
        use_blocks(model)
        embed_patches_by_matmul(model)
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.processor_settings: dict[str, Any] = {}  # of the stock processor's own file, see load_policy
        self.codec = self.family.codec(image_processor, model.config, data.min_pixels, data.max_pixels)
        self.device: torch.device = model.device
        self.image_token_id: int = model.config.image_token_id
        self.end_token_ids = _end_tokens(model, tokenizer, self.family.end_tokens)
        self.suppressed_token_ids = _known_tokens(tokenizer, self.family.never_sampled)
        # relative price of a dense mask over a packed row, see packing.rows_for_group
        dense = reads_dense_masks(model)
        self.attention_cost = 1.0 / (6.0 * model.config.get_text_config().hidden_size) if dense else 0.0
        self.engine: Any = None  # what samples in its place while there is one: saei.engines.serving
        self.packed_forwards = 0
        self.tokens_forward = 0
        self.tokens_generated = 0
        self.tokens_backward = 0
        self.shards: Shards | None = None  # set by sharding.shard
        self._base_checksum = ""
        self._around = prompt_texts(data)
        self._longest: int = model.config.get_text_config().max_position_embeddings
        self._special = re.compile("|".join(re.escape(token) for token in _special_tokens(tokenizer)))

    def encode(self, problem: Problem) -> Prompt:
        """The prompt of a problem: chat template, images first, then the question; image placeholders expanded.

        `<image>` markers in the question are dropped: the template places the images. Raises ValueError for an image
        that cannot be resized, a prompt that does not fit the model, or a tokenizer that cannot keep text plain.
        """
        try:
            images = tuple(self.codec.resize(image) for image in problem.images)
        except ValueError as error:
            raise ValueError(f"problem {problem.problem_id}: {error}") from error
        question = _IMAGE_MARKER.sub("", problem.question).strip()
        try:
            plain, (start, end) = self._tokenize(self._rendered(len(images)), question)
            token_ids, places = self._expand(plain, images)
        except ValueError as error:
            raise ValueError(f"problem {problem.problem_id}: {error}") from error
        span = (places[start], places[end])
        return Prompt(problem_id=problem.problem_id, token_ids=token_ids, images=images, question=span)

    def _rendered(self, images: int) -> str:
        """The chat template with marks in the place of the texts. Raises ValueError where it drops one of them."""
        content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": _USER}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if not self._around.system:
            return self._with_marks(messages, _USER)
        try:
            return self._with_marks([{"role": "system", "content": _SYSTEM}, *messages], _SYSTEM, _USER)
        except ValueError:  # some templates read typed parts only, and would drop a plain text in silence
            parts = [{"type": "text", "text": _SYSTEM}]
            return self._with_marks([{"role": "system", "content": parts}, *messages], _SYSTEM, _USER)

    def _with_marks(self, messages: list[dict[str, Any]], *marks: str) -> str:
        rendered = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        names = {_USER: "the question", _SYSTEM: "data.system_prompt"}
        for mark in marks:
            if rendered.count(mark) != 1:
                raise ValueError(
                    f"the chat template of model.path writes {names[mark]} {rendered.count(mark)} times in place of "
                    "once; take another template, or put the instruction into data.prompt_suffix"
                )
        return rendered

    def question_mask(self, prompt: Prompt) -> Bool[torch.Tensor, " prompt"]:
        """True on the tokens of a prompt that are the problem's own words.

        Not on special tokens, image placeholders, what `data.prompt` puts around it and words of the template; nor on a
        token that straddles one of these and the question.
        """
        mask = torch.zeros(len(prompt.token_ids), dtype=torch.bool)
        mask[slice(*prompt.question)] = True
        return mask

    def _tokenize(self, rendered: str, question: str) -> tuple[list[int], tuple[int, int]]:
        """Special tokens where the template wrote them, plain text between them; the texts are filled in last.

        Returns the ids and the (start, end) of those that are wholly the question's, (0, 0) where there are none.
        """
        token_ids: list[int] = []
        span = (0, 0)
        start = 0
        for match in [*self._special.finditer(rendered), None]:
            plain = rendered[start : match.start() if match else len(rendered)]
            before, mark, after = (part.replace(_SYSTEM, self._around.system) for part in plain.partition(_USER))
            before += self._around.prefix if mark else ""
            plain = before + (question + self._around.suffix + after if mark else "")
            if plain:
                encoded = self.tokenizer(
                    plain, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
                )
                if mark:
                    first, last = len(before), len(before) + len(question)
                    own = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if first <= a and b <= last]
                    span = (len(token_ids) + own[0], len(token_ids) + own[-1] + 1) if own else (0, 0)
                token_ids += encoded["input_ids"]
            if match:
                token_ids.append(self.tokenizer.convert_tokens_to_ids(match.group()))
                start = match.end()
        return token_ids, span

    def _expand(self, token_ids: list[int], images: Sequence[torch.Tensor]) -> tuple[tuple[int, ...], list[int]]:
        """The ids with every image placeholder expanded, and where each id went (and the end)."""
        found = token_ids.count(self.image_token_id)
        if found != len(images):
            raise ValueError(
                f"the prompt has {found} image placeholders for {len(images)} images; model.path needs a chat template "
                "that writes one for each image, and a tokenizer that marks them as special tokens"
            )
        shown = iter([self.image_tokens(image) for image in images])
        expanded: list[int] = []
        places: list[int] = []
        for token in token_ids:
            places.append(len(expanded))
            expanded += next(shown) if token == self.image_token_id else [token]
        if len(expanded) >= self._longest:
            raise ValueError(
                f"the prompt has {len(expanded)} tokens and the model reads {self._longest} in all; lower "
                "data.max_pixels or shorten the question"
            )
        return tuple(expanded), [*places, len(expanded)]

    def image_tokens(self, image: torch.Tensor) -> list[int]:
        """What stands in a prompt for a resized image, in place of the template's placeholder."""
        return self.family.image_tokens(
            self.codec, image, self.image_token_id, lambda text: self._tokenize(text, "")[0]
        )

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a completion, special tokens left out."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        temperature: float,
        pack_tokens: int,
        entropy_grad: bool = False,
    ) -> list[list[TokenScores]]:
        """Log-probs and entropies of given completions, see `scoring.score_requests`."""
        return score_requests(
            self, requests, temperature=temperature, pack_tokens=pack_tokens, entropy_grad=entropy_grad
        )

    def score_chosen(
        self, requests: Sequence[ScoreRequest], choose: Choice, *, temperature: float, pack_tokens: int
    ) -> list[list[TokenScores]]:
        """Scores of the tokens that `choose` picks, see `scoring.score_chosen`."""
        return score_chosen(self, requests, choose, temperature=temperature, pack_tokens=pack_tokens)

    def score_pairs(
        self,
        requests: Sequence[ScoreRequest],
        others: Sequence[Sequence[ByteImages]],
        *,
        temperature: float,
        pack_tokens: int,
    ) -> list[list[tuple[TokenScores, PairScores]]]:
        """Scores of given completions and their comparison with other images, see `scoring.score_pairs`."""
        return score_pairs(self, requests, others, temperature=temperature, pack_tokens=pack_tokens)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside, no parameter requires a gradient: an attack's backward pass then computes pixel gradients only."""
        before = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        self.model.requires_grad_(False)
        try:
            yield
        finally:
            for parameter, required in before:
                parameter.requires_grad_(required)

    def checksum(self) -> str:
        """sha256 over names and bytes of the weights (tied ones once), 16 hex digits.

        With an adapter: over its weights and `base_checksum`.
        """
        adapter = adapter_parameters(self.model)
        if adapter:
            return _digest(adapter.items(), self.base_checksum())
        return _digest(self.model.named_parameters())

    def base_checksum(self) -> str:
        """That of the weights under an adapter, which never change; "" without an adapter."""
        adapter = adapter_parameters(self.model)
        if adapter and not self._base_checksum:
            rest = ((name, p) for name, p in self.model.named_parameters() if name not in adapter)
            self._base_checksum = _digest(rest)
        return self._base_checksum

    def save(self, folder: Path) -> None:
        """Write a stock Hugging Face folder, complete or not at all; `from_pretrained` and vLLM can load it.

        An adapter is added to the weights.
        """
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        with _quiet():
            self.model.save_pretrained(temporary, state_dict=merged_state(self.model))
        self.tokenizer.save_pretrained(temporary)
        self.image_processor.save_pretrained(temporary)  # holds this run's pixel limits, see load_policy
        processor_file.write(self.processor_settings, temporary)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)


def load_policy(model: ModelConfig, data: DataConfig, seed: int = 0, held_on: str | None = None) -> Policy:
    """Load the policy that the settings name, in evaluation mode. A new adapter starts from `seed`.

    `held_on`: the device that the weights are put on, where it is not yet the one that will compute, `model.device`.

    `model.path` may be an adapter in peft's format: it is added to the weights of the model that it belongs to.
    Raises ValueError, naming `model.path`, for a missing folder, an incomplete one, or a family that is not supported.
    """
    base = adapter_base(model.path)
    if base is not None and model.lora_rank:
        raise ValueError(f"model.path {model.path!r} is an adapter: a new one can be trained on its merged model only")
    source, device = model_source(model.path), _device(model.device)
    options = {} if isinstance(source, Path) else {"revision": model.revision}
    try:
        family = supported_family(AutoConfig.from_pretrained(source, **options))
        attention = implementation(model.attention, device)
        loaded = _load_whole(
            source,
            dtype=getattr(torch, model.dtype),
            device_map={"": held_on or device},
            attn_implementation=attention,
            **options,
        )
        if base is not None:
            loaded = merge_adapter(loaded, Path(model.path))
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        tokenizer.chat_template = tokenizer.chat_template or processor_file.chat_template(source, **options)
        if not tokenizer.chat_template:
            raise ValueError("its tokenizer has no chat template; take the folder of an instruction-tuned model")
        settings = processor_file.read(source, **options)
        image_processor = family.processor(source, data.min_pixels, data.max_pixels, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"model.path {model.path!r} cannot be used: {error}") from error
    loaded.eval()
    freeze_parts(loaded, family, model)
    if model.lora_rank:
        add_adapter(loaded, family.decoder(loaded), model, seed)
    if model.gradient_checkpointing:
        recompute_layers(loaded)
    policy = Policy(loaded, tokenizer, image_processor, data)
    policy.processor_settings = settings
    return policy


def _digest(weights: Iterable[tuple[str, torch.Tensor]], start: str = "") -> str:
    digest = hashlib.sha256(start.encode())
    for name, parameter in weights:
        digest.update(name.encode())
        digest.update(whole_value(parameter).cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def freeze_parts(loaded: Any, family: Family, model: ModelConfig) -> None:
    """Switch off the gradients of the weights that the settings keep fixed."""
    if model.freeze_vision:
        for module in family.vision(loaded):
            module.requires_grad_(False)
    if model.freeze_projector:
        for module in family.projector(loaded):
            module.requires_grad_(False)


def _load_whole(source: Path | str, **options: Any) -> Any:
    """The stock model. Raises ValueError where a weight is missing or of another shape: transformers would draw it at
    random and go on.
    """
    with _quiet():
        loaded, report = AutoModelForImageTextToText.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            source, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    lost = sorted(report["missing_keys"]) + sorted(key for key, *_ in report["mismatched_keys"])
    if lost:
        raise ValueError(f"{len(lost)} weights are missing or of another shape than config.json says, first {lost[0]}")
    if adapter_parameters(loaded):
        raise ValueError(
            f"its folder holds a model and an adapter, {ADAPTER_CONFIG}, which transformers would add unasked, to "
            "another model perhaps: keep the adapter in a folder of its own"
        )
    return loaded


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or not (number.isdecimal() or name == kind):
        raise ValueError(f"model.device is auto, cpu, cuda or a numbered one such as cuda:1, got {name!r}")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"model.device is {name}, but torch sees {torch.cuda.device_count()} GPUs here; use --model.device cpu"
        )
    return name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of a second's loading in the log of a run, and no table of weights that we report ourselves."""
    shown, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()


def _end_tokens(model: Any, tokenizer: Any, names: Sequence[str]) -> tuple[int, ...]:
    configured = model.generation_config.eos_token_id
    ends = configured if isinstance(configured, list) else [configured]
    ends = [*_known_tokens(tokenizer, names), *(end for end in ends if end is not None)]
    return tuple(dict.fromkeys(ends))


def _special_tokens(tokenizer: Any) -> list[str]:
    """Longest first, so that no special token is read as the start of another."""
    return sorted((token.content for token in tokenizer.added_tokens_decoder.values()), key=len, reverse=True)


def _known_tokens(tokenizer: Any, names: Sequence[str]) -> tuple[int, ...]:
    known = tokenizer.get_added_vocab()
    return tuple(known[name] for name in names if name in known)
