"""benchmarks/attack.py compares equal work, and says what it measured."""

import json

import pytest

from benchmarks import attack
from saei.config import with_overrides
from saei.presets import preset
from saei.reward import Scorer


@pytest.fixture(scope="module")
def groups():
    with Scorer(preset("saei").reward) as scorer:
        return attack.sampled(84, 2, scorer)


def test_the_quick_run_writes_the_attack_and_both_steps(tmp_path):
    out = tmp_path / "attack.json"
    assert attack.command(["--quick", "--out", str(out)]) == 0
    figures = json.loads(out.read_text())["figures"]
    (found,) = figures["attack"]
    assert (found["pixels"], found["completions"]) == (84, 12)  # 2 problems, 6 clean completions each
    assert found["seconds"].keys() == {"micro-batch", "T = 1"} and found["over_micro_batch"].keys() == {"T = 1"}
    step = figures["step"]
    assert step["problems"] == 2
    assert step["plans"] == {"grpo": [["clean", 12]], "saei": [["clean", 6], ["egas", 6]]}
    assert step["phase_seconds"]["saei"]["attack"] > step["phase_seconds"]["grpo"]["attack"]
    for spread in (*found["seconds"].values(), *step["seconds"].values(), step["saei_over_grpo"]):
        assert spread["rounds"] == 3 and spread["median"] > 0


def test_every_iteration_is_one_more_pass_over_the_same_tokens(groups):
    policy, progress, config = groups
    configs = {str(t): attack.with_iterations(config, t) for t in (1, 2, 4)}
    spent = attack.assert_equal_work(policy, progress, configs)
    backward = spent["1"][1]
    assert spent["micro-batch"][1] > 0 and backward > 0
    assert [spent[name][1] for name in configs] == [backward, 2 * backward, 4 * backward]


def test_an_attack_that_moves_nothing_is_refused(groups):
    policy, progress, config = groups
    still = with_overrides(config, {"view.step_size": 0.0})
    with pytest.raises(AssertionError, match="left an image where it was"):
        attack.assert_equal_work(policy, progress, {"T = 1": still})


def test_an_attack_on_other_completions_is_refused(groups, monkeypatch):
    policy, progress, config = groups
    monkeypatch.setattr(attack, "micro_batch", lambda *given: 7)
    with pytest.raises(AssertionError, match=r"read \d+ tokens, the micro-batch has 7"):
        attack.assert_equal_work(policy, progress, {"T = 1": config})
