"""The step benchmark against TRL: it runs through its command line, and refuses to compare different work."""

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks.equal_work import refuse_other_lengths, refuse_other_optimizers, refuse_other_weights, same_prompts
from benchmarks.step_vs_trl import Settings, command
from saei.cli import BadInput, Told
from saei.config import Config
from saei.data import load_problems
from saei.policy import load_policy


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "figures.json"
    assert command(["--quick", "--out", str(out)]) == 0
    return json.loads(out.read_text())


def test_the_quick_run_writes_seconds_ratios_phases_and_trls_configuration(figures):
    assert figures["benchmark"] == "step_vs_trl"
    assert set(figures["machine"]["versions"]) == {"torch", "transformers", "trl", "accelerate"}
    (own,) = figures["figures"]["workloads"]
    assert set(own["seconds"]) == set(own["phases"]) == {"trl", "ours", "floor"}
    assert set(own["ratios"]) == {"trl/ours", "ours/floor", "trl/floor"}
    for name, phases in own["phases"].items():  # one round: its phases are all of its seconds
        assert sum(phases.values()) == pytest.approx(own["seconds"][name]["median"])
    assert own["trl_config"]["per_device_train_batch_size"] == own["trl_batch"] == 24
    assert own["trl_config"]["gradient_checkpointing"] is False
    assert "use_vllm" in figures["figures"]["cannot_run"]


def test_both_contenders_do_the_same_work(figures):
    (own,) = figures["figures"]["workloads"]
    assert own["logprob_difference"] < 1e-4
    assert own["completions"] == 24
    assert own["tokens"]["ours"]["generated"] == 24 * 6
    # at least each group with its prompt once, at most every row with its own
    per_row = 24 * (own["prompt_tokens"] + 6)
    assert own["tokens"]["floor"]["update"] <= own["tokens"]["ours"]["backward"] <= per_row


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("max_completion_length=5", "trl: 24 completions of 5 to 5 tokens, where both sides have 24 of 6"),
        ("num_iterations=2", "trl: 0 completions"),
        ("adam_beta2=0.9", "betas"),
        ("temperature=0.5", "log-probs differ"),
    ],
)
def test_a_trainer_of_trl_that_does_other_work_is_told_and_no_figures_are_written(option, told, tmp_path):
    with pytest.raises(Told, match=told):
        command(["--quick", "--trl-options", option, "--out", str(tmp_path / "figures.json")])
    assert not list(tmp_path.iterdir())


def test_other_weights_are_told_by_name():
    ours, theirs = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    theirs.load_state_dict(ours.state_dict())
    refuse_other_weights(SimpleNamespace(model=ours), theirs)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        theirs.bias[0] += 1e-7
    with pytest.raises(Told, match="bias"):
        refuse_other_weights(SimpleNamespace(model=ours), theirs)  # pyright: ignore[reportArgumentType]


def test_other_prompt_tokens_and_other_pixels_are_told():
    config = Config()
    policy = load_policy(config.model, config.data)
    problem = load_problems(config.data, "train")[0]
    prompt = policy.encode(problem)
    ids, pixels = list(prompt.token_ids), policy.codec.patchify(prompt.images[0])

    def trainer(ids, pixels):
        return SimpleNamespace(_tokenize_prompts=lambda _: ([ids], None, {"pixel_values": pixels}))

    assert [same.token_ids for same in same_prompts(policy, trainer(ids, pixels), [problem])] == [prompt.token_ids]
    with pytest.raises(Told, match="prompt tokens"):
        same_prompts(policy, trainer([*ids[:-1], ids[0]], pixels), [problem])
    with pytest.raises(Told, match="pixel_values"):
        same_prompts(policy, trainer(ids, pixels + 2e-5), [problem])


def test_other_rates_of_the_optimizer_are_told_by_name():
    def adam(**settings):
        return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], **settings)

    refuse_other_optimizers(SimpleNamespace(optimizer=adam(betas=(0.9, 0.95))), adam(betas=(0.9, 0.95)))
    with pytest.raises(Told, match="betas"):
        refuse_other_optimizers(SimpleNamespace(optimizer=adam(betas=(0.9, 0.999))), adam(betas=(0.9, 0.95)))


def test_other_lengths_are_told():
    refuse_other_lengths([6, 6], 2, 6, "ours")
    for lengths in ([6, 5], [6], []):
        with pytest.raises(Told, match="completions of"):
            refuse_other_lengths(lengths, 2, 6, "ours")


def test_settings_that_fit_no_workload_are_refused():
    with pytest.raises(BadInput, match="rounds"):
        Settings(rounds=(1, 2))
    with pytest.raises(BadInput, match="multiples of 28"):
        Settings(pixels=(100,), problems=(8,), rounds=(1,))
    with pytest.raises(BadInput, match="trl_options"):
        Settings(trl_options=("optim=adamw_torch",))
    assert Settings(trl_options=('optim="adamw_torch"', "torch_compile=true")).trl_arguments() == {
        "optim": "adamw_torch",
        "torch_compile": True,
    }
    assert Settings(pixels=(84, 448), problems=(8,), rounds=(7, 3)).workloads() == [(84, 8, 7), (448, 8, 3)]
