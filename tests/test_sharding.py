"""Weights, gradients and optimizer in parts on several processes: the same numbers as one process has.

In float64, where sums in another order differ by 1e-15. `shard_facts.py` measures inside of a real run of two
processes, which is then warned; one process continues it, and two continue what one began.
"""

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from saei import schema
from saei.checkpoint import checkpoints, read_cursor
from saei.config import Config, content_hash, identity, with_overrides
from saei.train import train
from tests.processes import EQUAL, assert_nearly_same_run, ended, outcomes, output, start
from tests.runs import small_config
from tests.test_distributed import CASES, PRESET_OF, float64

BOTH = (0, 1)
THREE: dict[str, Any] = {"rollout__problems_per_step": 3, "optim__updates_per_step": 1}


def sharded(folder: Path, name: str = "saei", **overrides) -> Config:
    options = {"checkpoint__every": 1, "eval__every": 0, **overrides}
    return float64(folder, name, distributed__strategy="shard", **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`straight`: 2 steps by 1 process. By 2, sharded: `begun` has the first step, and facts measured in it;
    `continued` had its first step from 1 process; `failing` fails in process 1.
    """
    folder = tmp_path_factory.mktemp("sharding")
    train(sharded(folder / "straight", **THREE))
    begun, continued, failing = (sharded(folder / name, **THREE) for name in ("begun", "continued", "failing"))
    shutil.copytree(folder / "straight", continued.out)
    (folder / "continued" / schema.DONE_FILE).unlink()
    shutil.rmtree(folder / "continued" / schema.CHECKPOINTS_FOLDER / "step-000002")
    plants = [(0, 0, "measured"), (0, 1, "measured"), (2, 1, "raises")]
    codes = ended(start(folder / "logs", [begun, continued, failing], 2, plants=plants), 400)
    assert codes == [0, 0], output(folder / "logs", 0).read_text()[-3000:]
    return folder


@pytest.fixture(scope="module")
def facts(folder) -> list[dict]:
    said = [outcomes(folder / "logs", rank)[0] for rank in BOTH]
    assert all("warned by SIGUSR2" in one for one in said), said
    return [json.loads((folder / "begun" / f"facts-{rank}.json").read_text()) for rank in BOTH]


@pytest.mark.parametrize("case", ["three groups", "one group", "with and without image", "text"])
def test_the_gradients_of_two_processes_are_those_of_one(facts, case):
    for rank in BOTH:
        found = facts[rank][case]
        assert found["gap"] < EQUAL
        assert found["norms"][0] == pytest.approx(found["norms"][1], rel=EQUAL)
        assert found["losses"][0] == pytest.approx(found["losses"][1], rel=EQUAL)
        assert found["tokens"][0] == found["tokens"][1]  # passes that fill up are counted nowhere
        assert found["reductions"] > 0
    assert facts[0][case]["reductions"] == facts[1][case]["reductions"]
    assert bool(facts[0][case]["without gradient"]) == (case == "text")


def test_recomputed_layers_have_the_same_gradients(facts):
    assert max(one["recomputed"] for one in facts) < EQUAL


def test_a_process_holds_half_of_weights_gradients_and_optimizer(facts):
    whole = facts[0]["weights_of_one"]
    assert sum(one["weights"] for one in facts) == whole
    assert sum(one["gradients"] for one in facts) == whole
    for one in facts:
        assert one["weights"] == pytest.approx(whole / 2, rel=0.01)
        assert one["optimizer"] == pytest.approx(2 * one["weights"], rel=1e-3)  # and a count of steps a weight
        assert one["estimated"] == 2 * one["weights"]


def test_an_attack_reduces_nothing_and_leaves_the_weights_as_they_were(facts):
    for one in facts:
        attack = one["attack"]
        assert attack["gap"] < EQUAL  # process 0 made 1 pass, process 1 made 3
        assert attack["collectives"] == {} and attack["weights with gradient"] == 0
        assert attack["restored"] and attack["freed"] and attack["same weights"]


def test_passes_in_bfloat16_are_on_float32_parts_that_keep_small_updates(facts):
    for one in facts:
        found = one["narrow"]
        assert (found["parts"], found["gradients"]) == (["torch.float32"], ["torch.float32"])
        assert found["passes"] == ["torch.bfloat16"]
        assert found["kept"] > 0.99
        assert found["norm"] == pytest.approx(one["three groups"]["norms"][1], rel=0.1)


def test_one_process_continues_what_two_began(folder, facts):
    begun = sharded(folder / "begun", **THREE)
    assert read_cursor(checkpoints(folder / "begun" / schema.CHECKPOINTS_FOLDER)[-1]).step == 1
    train(begun)
    assert_nearly_same_run(folder / "straight", folder / "begun")


def test_two_processes_continue_what_one_began(folder):
    assert [outcomes(folder / "logs", rank)[1] for rank in BOTH] == ["done"] * 2
    assert_nearly_same_run(folder / "straight", folder / "continued")


def test_an_error_in_one_process_ends_the_other_with_it(folder):
    assert [outcomes(folder / "logs", rank)[2] for rank in BOTH] == ["ArithmeticError: planted"] * 2


def test_a_trial_is_not_named_by_how_its_model_is_held():
    plain = small_config(Path("run"))
    parts = with_overrides(plain, {"distributed.strategy": "shard"})
    assert content_hash(identity(plain)) == content_hash(identity(parts))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_every_kind_of_update_is_that_of_one_process(tmp_path, size):
    names = ["kl_cov", "micro", "vppo", "refills"]
    reference = sharded(tmp_path / "parts" / "kl", "grpo", loss__kl_coef=0.1)
    cases = [sharded(tmp_path / "parts" / name, PRESET_OF.get(name, name), **CASES[name]) for name in names]
    codes = ended(start(tmp_path / "logs", [*cases, reference], size), 500)
    assert codes == [0] * size, output(tmp_path / "logs", 0).read_text()[-3000:]
    for config in [*cases, reference]:
        one = with_overrides(config, {"out": config.out.replace("parts", "one")})
        train(one)
        assert_nearly_same_run(Path(one.out), Path(config.out))


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_one_process_continues_the_run(tmp_path, folder):
    config = sharded(tmp_path / "run", **THREE)
    processes = start(tmp_path / "logs", [config], 2)
    kept = tmp_path / "run" / schema.CHECKPOINTS_FOLDER
    deadline = time.monotonic() + 240
    while not checkpoints(kept) and time.monotonic() < deadline:
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGKILL)
    assert ended(processes, 60) == [0, -signal.SIGKILL], output(tmp_path / "logs", 0).read_text()[-3000:]
    (said,) = outcomes(tmp_path / "logs", 0)
    assert said.startswith("ProcessLost: another of the 2 processes of this trial ended")
    train(config)
    assert_nearly_same_run(tmp_path / "run", folder / "straight")
