"""How benchmarks are asked and judged."""

from dataclasses import dataclass
from typing import Literal

from saei.settings.rules import require


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkConfig:
    prompts: Literal["noisyrollout", "official"] = "noisyrollout"
    """Prompts of NoisyRollout's evaluation, which ask for a box (its system message unless --data.prompt or
    --data.system-prompt is given), or those of each benchmark's own authors."""
    split: str = ""
    """Another split than the usual one, e.g. `testmini` of MathVision."""
    samples: int = 0
    """Completions per item at temperature 1, beside the greedy one; 0: greedy alone."""
    limit: int = 0
    """Only the first items of each benchmark; 0: all."""
    text_only: bool = True
    """Ask the items without a picture, too (178 of HallusionBench; NoisyRollout leaves them out)."""
    skip_missing: bool = False
    """Leave out, and count, items whose picture is not there; else they are an error."""
    judge_always: bool = False
    """Ask the judge about every item of the benchmarks whose authors do, not only about what rules leave open."""

    def __post_init__(self) -> None:
        for name in ("samples", "limit"):
            require(getattr(self, name) >= 0, f"benchmark.{name} must be >= 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeConfig:
    mode: Literal["off", "ask", "replay"] = "off"
    """`off`: what rules cannot decide is undecided. `ask`: a chat endpoint; replies go into `file`, where given, and
    are not asked for twice. `replay`: the replies of `file` alone, without a network."""
    url: str = ""
    """Base of an OpenAI-compatible endpoint, e.g. http://localhost:8000/v1."""
    model: str = ""
    """Model that the endpoint is asked for."""
    file: str = ""
    """JSON lines of requests and replies."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key, if one is needed; the key is written nowhere."""
    timeout_s: float = 60.0
    """Seconds for one reply."""
    attempts: int = 5
    """Attempts for one reply; the pause between them doubles from 1 s."""
    threads: int = 4
    """Requests at a time."""
    max_tokens: int = 256
    """Longest reply, in tokens."""

    def __post_init__(self) -> None:
        require(
            self.mode != "ask" or bool(self.url and self.model), "judge.mode ask needs --judge.url and --judge.model"
        )
        require(self.mode != "replay" or bool(self.file and self.model), "judge.mode replay needs --judge.file and "
                "--judge.model (the model that was asked)")  # fmt: skip
        require(
            not self.url or self.url.startswith(("http://", "https://")), f"judge.url must be http(s), got {self.url!r}"
        )
        require("@" not in self.url, "judge.url must hold no user or password; the key comes from judge.key_variable")
        for name in ("timeout_s", "attempts", "threads", "max_tokens"):
            require(getattr(self, name) > 0, f"judge.{name} must be above 0, got {getattr(self, name)}")
