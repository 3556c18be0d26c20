"""A real vLLM behind the protocol, on the shipped model with wider heads (`widened.py`). Run by `make test-vllm`.

Prints the figures that docs/log.md quotes (`pytest -s`).
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from saei.config import Config, ModelConfig, RolloutConfig, ViewConfig, with_overrides
from saei.data import load_problems
from saei.engines.completing import complete
from saei.engines.mismatch import mismatch_facts, mismatch_summary
from saei.engines.serving import engine_serving
from saei.engines.wire import png, unexpanded
from saei.make_view import make_view
from saei.policy import Policy, load_policy
from saei.rollout import GroupsInProgress, noise_source, sample_view
from saei.train import train
from saei.types import SampledCompletion, SampleRequest
from tests.runs import frame, small_config
from tests.vllm.widened import widened

PYTHON = os.environ.get("VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.vllm,
    pytest.mark.skipif(not PYTHON, reason="VLLM_PYTHON does not name the Python of a vLLM environment: make test-vllm"),
]
OPTIONS = (
    "enforce_eager=true",
    "max_model_len=512",
    "max_num_seqs=64",
    'limit_mm_per_prompt={"image": 1, "video": 0}',
)
PROMPTS = 20
HERE = {"rollout.engine": "transformers", "rollout.engine_options": ()}


@pytest.fixture(scope="module", autouse=True)
def small_cpu_engine() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0-0")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return widened(tmp_path_factory.mktemp("widened") / "model")


def settings(model: Path, **rollout: Any) -> Config:
    chosen: dict[str, Any] = {"engine": "vllm", "engine_python": PYTHON, "engine_options": OPTIONS, **rollout}
    return Config(
        model=ModelConfig(path=str(model), device="cpu"),
        rollout=RolloutConfig(**chosen),
        view=ViewConfig(step_size=8.0),
    )


@pytest.fixture(scope="module")
def served(model) -> Iterator[tuple[Policy, Config]]:
    config = settings(model)
    policy = load_policy(config.model, config.data)
    with engine_serving(policy, config.rollout, config.model, 0):
        yield policy, config


def requests_of(policy: Policy, config: Config, count: int = PROMPTS, each: int = 1) -> list[SampleRequest]:
    problems = load_problems(config.data, "validation")
    prompts = [policy.encode(problems[number]) for number in range(count)]
    return [SampleRequest(prompt=p, images=p.images, indices=tuple(range(each))) for p in prompts]


def greedy(policy: Policy, config: Config, engine: str, requests: list[SampleRequest]) -> list[SampledCompletion]:
    found = complete(policy, requests, config, engine=engine, sampling=(1.0, 1.0), noise=None)
    return [one for (one,) in found]


def sampled(policy: Policy, config: Config, requests: list[SampleRequest], step: int = 0) -> list[SampledCompletion]:
    sampling = (config.rollout.temperature, config.rollout.top_p)
    noise = noise_source(0, "sampling", step)
    found = complete(policy, requests, config, engine="vllm", sampling=sampling, noise=noise)
    return [one for group in found for one in group]


def figures(completions: list[SampledCompletion]) -> dict[str, float]:
    return mismatch_summary([{"tokens": len(one.token_ids), **mismatch_facts(one)} for one in completions])


def moved(policy: Policy, config: Config, requests: list[SampleRequest]) -> list[SampleRequest]:
    """The same requests on the images that EgAS moves by 8 grey levels."""
    problems = load_problems(config.data, "validation")
    progress = GroupsInProgress.begin(policy, [problems[number] for number in range(len(requests))])
    progress.images["clean"] = [[prompt.images] for prompt in progress.prompts]
    sample_view(policy, progress, "clean", 4, with_overrides(config, HERE), 0)
    make_view(policy, progress, "egas", 4, config, 0)
    return [
        SampleRequest(prompt=request.prompt, images=entries[0], indices=request.indices)
        for request, entries in zip(requests, progress.images["egas"], strict=True)
    ]


def test_greedy_completions_are_ours_token_for_token(served):
    policy, config = served
    requests = requests_of(policy, config)
    theirs, ours = (greedy(policy, config, engine, requests) for engine in ("vllm", "transformers"))
    for request, one, other in zip(requests, theirs, ours, strict=True):
        if one.token_ids != other.token_ids:  # a tie in rounding: what was chosen is as likely on both sides
            pairs = zip(one.token_ids, other.token_ids, strict=False)
            at = next(i for i, (a, b) in enumerate(pairs) if a != b)
            assert one.sampler_logprobs[at] == pytest.approx(float(other.sampler_logprobs[at]), abs=1e-4)
            print(f"{request.prompt.problem_id} diverges at {at}", one.sampler_logprobs[at], other.sampler_logprobs[at])
    equal = sum(one.token_ids == other.token_ids for one, other in zip(theirs, ours, strict=True))
    print(f"\ngreedy: {equal} of {PROMPTS} equal; {figures(theirs)}")
    assert equal >= PROMPTS - 1
    assert figures(theirs)["engine_gap_max"] < 1e-4


def test_the_engine_sees_the_pixels_of_an_adversarial_image_as_the_trainer_made_them(served):
    policy, config = served
    requests = requests_of(policy, config, 4)
    for clean, adversarial in zip(requests, moved(policy, config, requests), strict=True):
        seen = []
        for request in (clean, adversarial):
            message = {
                "kind": "pixels",
                "prompt": unexpanded(policy, request.prompt),
                "images": [png(image) for image in request.images],
            }
            reply = policy.engine._ask(message, "pixels")
            difference = policy.engine.check_pixels(policy, request.prompt, request.images, reply)
            seen.append(reply["values"])
            print(f"\npixels of {request.prompt.problem_id}: at most {difference:.2g} apart, shape {reply['shape']}")
            assert difference < 1e-5
        assert seen[0] != seen[1]
        assert not torch.equal(clean.images[0], adversarial.images[0])


def test_an_adversarial_image_is_replayed_exactly(served):
    policy, config = served
    requests = requests_of(policy, config, 8)
    adversarial = moved(policy, config, requests)
    on_clean, first, again = (greedy(policy, config, "vllm", some) for some in (requests, adversarial, adversarial))
    ours = greedy(policy, config, "transformers", adversarial)
    assert [one.token_ids for one in first] == [one.token_ids for one in again] == [one.token_ids for one in ours]
    assert figures(first)["engine_gap_max"] < 1e-4
    apart = []
    for one, other in zip(on_clean, first, strict=True):
        assert one.engine_logprobs is not None and other.engine_logprobs is not None
        apart.append(abs(float(one.engine_logprobs[0] - other.engine_logprobs[0])))
        both = min(len(one.token_ids), len(other.token_ids))
        apart[-1] = max(apart[-1], float((one.engine_logprobs[:both] - other.engine_logprobs[:both]).abs().max()))
    print(f"\nadversarial: gap {figures(first)['engine_gap_max']:.2g}; clean against moved, by image: {apart}")
    assert min(apart) > 1e-3


def test_seeds_repeat_and_the_mismatch_of_sampled_completions_is_rounding(served):
    policy, config = served
    requests = requests_of(policy, config, PROMPTS, each=8)
    first, again, other = (sampled(policy, config, requests, step) for step in (0, 0, 1))
    print(f"\nsampled, temperature 1: {figures(first)}")
    same = sum(one.token_ids == two.token_ids for one, two in zip(first, again, strict=True))
    print(f"the same seeds once more: {same} of {len(first)} equal; shares of ends {sum(o.finished for o in first)}")
    assert same >= 0.98 * len(first)
    assert sum(one.token_ids == two.token_ids for one, two in zip(first, other, strict=True)) < len(first) / 2
    assert figures(first)["engine_gap_max"] < 1e-3 and figures(first)["engine_unknown_share"] == 0
    assert not {token for one in first for token in one.token_ids} & set(policy.suppressed_token_ids)


def test_after_new_weights_the_engine_is_a_fresh_one_with_these_weights(model, served):
    policy, config = served
    requests = requests_of(policy, config)
    before = greedy(policy, config, "vllm", requests)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # vision tower, projector and language model all move
        for parameter in policy.model.parameters():
            parameter += 0.05 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    policy.engine.hand_over(policy, 1)
    after = greedy(policy, config, "vllm", requests)
    other = load_policy(ModelConfig(path=str(policy.engine._weights), device="cpu"), config.data)
    with engine_serving(other, config.rollout, config.model, 0):
        fresh = greedy(other, config, "vllm", requests)
    ours = greedy(policy, config, "transformers", requests)
    assert [one.token_ids for one in after] == [one.token_ids for one in fresh] == [one.token_ids for one in ours]
    changed = sum(one.token_ids != two.token_ids for one, two in zip(before, after, strict=True))
    gap = figures(after)["engine_gap_max"]
    print(f"\nafter new weights: {changed} of {PROMPTS} changed; gap to the trainer {gap:.2g}")
    assert changed and gap < 1e-4


def test_at_another_temperature_the_engine_tells_the_distribution_it_draws_from(model):
    config = settings(model, temperature=0.7)
    policy = load_policy(config.model, config.data)
    with engine_serving(policy, config.rollout, config.model, 0):
        found = sampled(policy, config, requests_of(policy, config, PROMPTS, each=4))
        os.killpg(policy.engine.process_id, signal.SIGKILL)
        again = sampled(policy, config, requests_of(policy, config, PROMPTS, each=4))
    print(f"\nsampled, temperature 0.7: {figures(found)}")
    assert figures(found)["engine_gap_max"] < 2e-3
    assert sum(a.token_ids == b.token_ids for a, b in zip(found, again, strict=True)) >= 0.98 * len(found)


def test_a_run_of_saei_with_vllm(model, tmp_path):
    config = small_config(
        tmp_path / "run",
        "saei",
        steps=3,
        model__path=str(model),
        rollout__engine="vllm",
        rollout__engine_python=PYTHON,
        rollout__engine_options=OPTIONS,
        rollout__problems_per_step=4,
        loss__engine_correction="token_truncated",
        eval__engine="vllm",
        optim__lr=1e-3,
        optim__warmup_steps=0,
    )
    train(config)
    steps = frame(tmp_path / "run", "steps")
    print("\n" + steps[[c for c in steps if c.startswith("engine_")]].T.to_string())
    assert (steps["engine_gap_max"] < 1e-3).all() and (steps["engine_kl_k3"] < 1e-5).all()
    assert (steps["engine_weight"] - 1).abs().max() < 1e-3
