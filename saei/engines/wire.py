"""Requests as an engine is sent them, and its replies checked: an engine is believed nothing that can be looked up.

A prompt goes as token ids with one placeholder for each image, never with the expanded placeholders: an engine expands
what it is given, and would do it twice. It says how it expanded them, and that must be the prompt that the trainer
scores. Pictures go as PNG of the 8-bit image that the policy sees; the engine's own resize leaves them alone.
"""

import base64
import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from saei.engines.process import EngineRefused
from saei.types import ByteImages, Prompt, SampleRequest

MESSAGE_BYTES = 2**28
"""Pictures of one message, about, in bytes."""
ABOVE_ONE = 1e-3
"""A log-prob may be above 0 by so much, which is rounding."""


@dataclass(frozen=True, slots=True)
class EngineRule:
    """How completions are drawn and what ends them; `vocabulary` is the number of token ids."""

    temperature: float
    top_p: float
    max_new_tokens: int
    end: tuple[int, ...]
    suppressed: tuple[int, ...]
    vocabulary: int


@dataclass(frozen=True, slots=True)
class EngineCompletion:
    """As the engine gave it. A log-prob is NaN where the engine had none (vLLM's are NaN now and then)."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool


def unexpanded(policy: Any, prompt: Prompt) -> list[int]:
    """The prompt's token ids with one placeholder for each image.

    Raises EngineRefused where what stands for an image is not in it.
    """
    tokens: list[int] = []
    read = 0
    for image in prompt.images:
        shown = tuple(policy.image_tokens(image))
        places = range(read, len(prompt.token_ids) - len(shown) + 1)
        at = next((place for place in places if prompt.token_ids[place : place + len(shown)] == shown), -1)
        if at < 0:
            raise EngineRefused(
                f"problem {prompt.problem_id}: its prompt lacks the {len(shown)} tokens of one of its "
                f"{len(prompt.images)} images; use rollout.engine transformers"
            )
        tokens += [*prompt.token_ids[read:at], policy.image_token_id]
        read = at + len(shown)
    return [*tokens, *prompt.token_ids[read:]]


def png(image: Any) -> str:
    """A [3, height, width] uint8 image as PNG in base64."""
    sink = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(sink, "png", compress_level=1)
    return base64.b64encode(sink.getvalue()).decode()


def messages(
    requests: Sequence[SampleRequest],
    seeds: Sequence[Sequence[int | None]],
    rule: EngineRule,
    policy: Any,
) -> Iterator[tuple[Sequence[SampleRequest], dict[str, Any]]]:
    """The requests as few messages of about MESSAGE_BYTES, each with the requests that it holds."""
    first, pictures, size, wired = 0, dict[str, str](), 0, list[dict[str, Any]]()
    for number, (request, own_seeds) in enumerate(zip(requests, seeds, strict=True)):
        names = _name_pictures(request.images, pictures)
        wired.append({"prompt": unexpanded(policy, request.prompt), "images": names, "seeds": list(own_seeds)})
        size = sum(map(len, pictures.values()))
        if size >= MESSAGE_BYTES or number + 1 == len(requests):
            yield requests[first : number + 1], _sample_message(wired, pictures, rule)
            first, pictures, wired = number + 1, {}, []


def _name_pictures(images: ByteImages, pictures: dict[str, str]) -> list[str]:
    """The images' names; those that are new are added to `pictures`."""
    names = []
    for image in images:
        name = hashlib.sha256(repr(tuple(image.shape)).encode() + image.cpu().numpy().tobytes()).hexdigest()
        if name not in pictures:
            pictures[name] = png(image)
        names.append(name)
    return names


def _sample_message(wired: list[dict[str, Any]], pictures: dict[str, str], rule: EngineRule) -> dict[str, Any]:
    return {
        "kind": "sample",
        "images": pictures,
        "requests": wired,
        "temperature": rule.temperature,
        "top_p": rule.top_p,
        "max_new_tokens": rule.max_new_tokens,
        "end": list(rule.end),
        "suppressed": list(rule.suppressed),
    }


def checked_completions(
    reply: dict[str, Any], requests: Sequence[SampleRequest], rule: EngineRule
) -> list[list[EngineCompletion]]:
    """The completions of a reply, per request. Raises EngineRefused, naming what is wrong, for anything else."""
    results = _listed(reply, "results", len(requests), "requests")
    completions = []
    for request, result in zip(requests, results, strict=True):
        where = f"problem {request.prompt.problem_id}"
        if not isinstance(result, dict):
            raise _wrong(f"{where}: a result is an object, and {str(result)[:80]} came")
        check_prompt(request.prompt, result.get("prompt"))
        entries = _listed(result, "completions", len(request.indices), f"completions of {where}")
        completions.append([_checked(entry, rule, where) for entry in entries])
    return completions


def check_prompt(prompt: Prompt, read: Any) -> None:
    """Raise EngineRefused unless the engine read the prompt that the trainer scores, placeholder for placeholder."""
    if read != list(prompt.token_ids):
        count = len(read) if isinstance(read, list) else "no"
        raise EngineRefused(
            f"problem {prompt.problem_id}: the rollout engine read {count} prompt tokens where the trainer scores "
            f"{len(prompt.token_ids)}, or other ones: its processor resizes the image or expands placeholders "
            "otherwise (another version of transformers, or other pixel limits); use rollout.engine transformers"
        )


def _checked(entry: Any, rule: EngineRule, where: str) -> EngineCompletion:
    if not isinstance(entry, dict):
        raise _wrong(f"{where}: a completion is an object, and {str(entry)[:80]} came")
    tokens, logprobs, finish = entry.get("tokens"), entry.get("logprobs"), entry.get("finish")
    if not isinstance(tokens, list) or not 1 <= len(tokens) <= rule.max_new_tokens:
        count = len(tokens) if isinstance(tokens, list) else "no list of"
        raise _wrong(f"{where}: {count} tokens came, and 1 to {rule.max_new_tokens} (rollout.max_new_tokens) may")
    strange = [token for token in tokens if type(token) is not int or not 0 <= token < rule.vocabulary]
    if strange:
        raise _wrong(f"{where}: {strange[0]!r} came as a token id; ids are 0 to {rule.vocabulary - 1}")
    never = set(tokens) & set(rule.suppressed)
    if never:
        raise _wrong(f"{where}: token {min(never)} came, which is suppressed")
    if not isinstance(logprobs, list) or len(logprobs) != len(tokens):
        raise _wrong(f"{where}: every token has a log-prob, and {str(logprobs)[:80]} came for {len(tokens)} tokens")
    ends = [position for position, token in enumerate(tokens) if token in rule.end]
    stopped = ends == [len(tokens) - 1]
    if not stopped and (ends or len(tokens) < rule.max_new_tokens):
        raise _wrong(
            f"{where}: a completion of {len(tokens)} tokens with end tokens at {ends}: it ends at its first end token, "
            f"or has {rule.max_new_tokens} tokens"
        )
    if finish not in ("stop", "length"):
        raise _wrong(f"{where}: a completion finished by {str(finish)[:80]!r}, not by stop or length")
    return EngineCompletion(tuple(tokens), tuple(_logprob(value, where) for value in logprobs), stopped)


def _logprob(value: Any, where: str) -> float:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or value > ABOVE_ONE:
        raise _wrong(f"{where}: {str(value)[:80]} came as a log-prob")
    return float(value)


def _listed(message: dict[str, Any], name: str, count: int, what: str) -> list[Any]:
    entries = message.get(name)
    if not isinstance(entries, list) or len(entries) != count:
        came = len(entries) if isinstance(entries, list) else "none"
        raise _wrong(f"{came} {name} came for {count} {what}")
    return entries


def _wrong(sentence: str) -> EngineRefused:
    return EngineRefused(f"the rollout engine does not keep to the protocol: {sentence}")
