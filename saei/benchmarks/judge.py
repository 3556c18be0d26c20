"""The judge: a language model behind an OpenAI-compatible endpoint, or the recording of one. One function, prompt to
reply; nothing else of the project knows what answers.

A request is known by the sha256 of its model, prompt and sampling settings, so a recording serves any endpoint. The key
comes from the environment and enters no file, hash or message. The endpoint is not trusted: a reply is bounded in time
and size, and what is no chat completion is an error.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from saei.benchmarks.item import Ask
from saei.cli import BadInput, Told
from saei.settings.benchmarking import JudgeConfig

LARGEST_REPLY = 1 << 20
"""Bytes of a reply; more are not read."""
LONGEST_PAUSE_S = 60.0
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)


class JudgeFailed(Told):
    """The judge gave no reply. What was evaluated is kept: the same command continues."""


def request_of(config: JudgeConfig, prompt: str) -> dict[str, Any]:
    """The body of the request."""
    return {
        "model": config.model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": config.max_tokens,
    }


def request_key(request: dict[str, Any]) -> str:
    """sha256 (hex) of a request: its name in a recording."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def make_judge(config: JudgeConfig, *, pause: Callable[[float], None] = time.sleep) -> Ask | None:
    """The judge that `config` describes, None for mode `off`. Raises BadInput for a recording that cannot be read."""
    if config.mode == "off":
        return None
    recording = Recording(Path(config.file).expanduser(), writes=config.mode == "ask") if config.file else None
    endpoint = _Endpoint(config, pause) if config.mode == "ask" else None

    def ask(prompt: str) -> str:
        request = request_of(config, prompt)
        key = request_key(request)
        known = recording.replies.get(key) if recording else None
        if known is not None:
            return known
        if endpoint is None:
            raise JudgeFailed(
                f"judge.mode replay: {config.file} has no reply to request {key[:16]} (model {config.model!r}, prompt "
                f"begins {prompt[:80]!a}); record it with --judge.mode ask --judge.url URL --judge.file FILE"
            )
        reply = endpoint.reply(request)
        if recording:
            recording.add(key, request, reply)
        return reply

    return ask


class Recording:
    """Requests and replies, one JSON object a line, each appended by one write; a line cut by a kill is dropped."""

    def __init__(self, file: Path, *, writes: bool) -> None:
        self.file = file
        self.replies: dict[str, str] = {}
        self._lock = threading.Lock()
        if not file.is_file():
            if not writes:
                raise BadInput(f"judge.file {str(file)!r} does not exist; judge.mode ask writes it")
            file.parent.mkdir(parents=True, exist_ok=True)
            return
        content = file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            self._take_in(line, number)
        if writes and len(whole) < len(content):
            os.truncate(file, len(whole))

    def _take_in(self, line: bytes, number: int) -> None:
        try:
            row = json.loads(line)
            key, reply, right = row["key"], row["reply"], request_key(row["request"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"judge.file {self.file}, line {number}: no recorded reply ({error})") from error
        if key != right or not isinstance(reply, str):
            raise BadInput(f"judge.file {self.file}, line {number}: the key is not that of its request; record it anew")
        self.replies[key] = reply

    def add(self, key: str, request: dict[str, Any], reply: str) -> None:
        """Append a reply, whole, and flush it to disk."""
        line = (json.dumps({"key": key, "request": request, "reply": reply}) + "\n").encode()
        with self._lock:
            self.replies[key] = reply
            descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


class _Endpoint:
    """Asks, waits and tries again."""

    def __init__(self, config: JudgeConfig, pause: Callable[[float], None]) -> None:
        self.config, self.pause = config, pause
        self.url = f"{config.url.rstrip('/')}/chat/completions"
        self._key = os.environ.get(config.key_variable, "")

    def reply(self, request: dict[str, Any]) -> str:
        """The text of the reply. Raises JudgeFailed after the last attempt, or for a refusal that will not change."""
        wait, last = 1.0, ""
        for attempt in range(self.config.attempts):
            if attempt:
                self.pause(min(wait, LONGEST_PAUSE_S))
                wait *= 2
            try:
                status, body, retry_after = self._post(request)
            except (httpx.HTTPError, TimeoutError) as error:
                last = type(error).__name__
                continue
            if status == 200:
                return self._content(body)
            last = f"status {status}: {self._hidden(ascii(body[:200].decode(errors='replace')))}"
            if status not in _AGAIN:
                break
            wait = max(wait, retry_after)
        raise JudgeFailed(
            f"judge.url {self.config.url} gave no reply ({last}). What is evaluated so far is kept; the same command "
            "continues when the judge answers"
        )

    def _post(self, request: dict[str, Any]) -> tuple[int, bytes, float]:
        """Status, body and Retry-After in seconds; the whole exchange within the time limit."""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        deadline = time.monotonic() + self.config.timeout_s
        body = b""
        with httpx.stream("POST", self.url, json=request, headers=headers, timeout=self.config.timeout_s) as response:
            for piece in response.iter_bytes():
                body += piece
                if len(body) > LARGEST_REPLY:
                    raise JudgeFailed(f"judge.url {self.config.url}: a reply of more than {LARGEST_REPLY} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError
            after = response.headers.get("retry-after", "")
            return response.status_code, body, float(after) if after.isdecimal() else 0.0

    def _content(self, body: bytes) -> str:
        try:
            content = json.loads(body)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise JudgeFailed(f"judge.url {self.config.url}: the reply is no chat completion ({error!r})") from error
        return content if isinstance(content, str) else ""

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "...") if self._key else text
