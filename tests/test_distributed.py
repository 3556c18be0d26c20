"""Several processes for one trial change no number beyond rounding, and end together.

The runs are in float64: there the sums of a batch that was split otherwise differ by 1e-15, and nothing that is drawn
or ranked from them changes. In float32 a token is redrawn where rounding carries a probability over a uniform.
"""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from saei import schema
from saei.checkpoint import checkpoints, read_cursor
from saei.cli import BadInput
from saei.distributed import ALONE, World
from saei.parcel import from_bytes, to_bytes
from saei.recorder import run_lock
from saei.rendezvous import Place, find_place
from tests.processes import assert_nearly_same_run, ended, outcomes, output, start
from tests.runs import frame, small_config


def float64(folder: Path, name: str, **overrides):
    options = {"steps": 2, "model__dtype": "float64", "eval__test_problems": 3, **overrides}
    return small_config(folder, name, **options)


CASES = {
    "saei": {"steps": 3, "rollout__problems_per_step": 4},
    "refills": {"filter__max_batches": 3, "rollout__problems_per_step": 2, "eval__every": 0},
    "kl_cov": {"optim__updates_per_step": 2, "rollout__problems_per_step": 4, "eval__every": 0},
    "micro": {
        "optim__updates_per_step": 2,
        "optim__pack_tokens": 512,
        "loss__pick_scope": "micro",
        "loss__agg_scope": "micro",
        "rollout__problems_per_step": 4,
        "eval__every": 0,
    },
    # of 1 problem a step one process has none
    "vppo": {
        "optim__updates_per_step": 1,
        "rollout__problems_per_step": 1,
        "eval__every": 0,
        "eval__attacks": ("egas",),
        "eval__attack_levels": (4.0,),
        "eval__attack_problems": 3,
    },
    "sent": {"eval__every": 0, "optim__updates_per_step": 2, "data__curriculum_samples": 2},
}
PRESET_OF = {"refills": "dapo", "micro": "clip_cov"}


IMPOSSIBLE = ("busy", "another", "failing", "drifting")


def configs(folder: Path):
    return [float64(folder / name, PRESET_OF.get(name, name), **overrides) for name, overrides in CASES.items()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Every case by 1 and by 2 processes.

    The 2 processes go on with runs that cannot be: one whose folder is locked, one whose folder holds another trial,
    one that fails in process 1, one whose weights drift apart, and with the first one again, which is finished.
    """
    folder = tmp_path_factory.mktemp("processes")
    busy, another, failing, drifting = (float64(folder / "2" / name, "grpo", eval__every=0) for name in IMPOSSIBLE)
    for config in (busy, another):
        Path(config.out).mkdir(parents=True)
    (Path(another.out) / schema.CONFIG_FILE).write_text(json.dumps({"trial_id": "another-s0"}))
    plants = [(len(CASES) + 2, 1, "raises"), (len(CASES) + 3, 1, "drifts")]
    with run_lock(Path(busy.out)):
        for size in (1, 2):
            own = configs(folder / str(size))
            further = [busy, another, failing, drifting, own[0]] if size == 2 else []
            codes = ended(start(folder / str(size), [*own, *further], size, plants=plants), 400)
            assert codes == [0] * size, output(folder / str(size), 0).read_text()[-3000:]
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_do_what_one_does(runs, name):
    assert_nearly_same_run(runs / "1" / name, runs / "2" / name)
    known = json.loads((runs / "2" / name / schema.ENVIRONMENT_FILE).read_text())
    assert known["world_size"] == 2


@pytest.mark.slow
def test_three_processes_for_two_problems_do_what_one_does(runs):
    config = configs(runs / "3")[list(CASES).index("refills")]
    assert ended(start(runs / "3", [config], 3), 240) == [0, 0, 0]
    assert_nearly_same_run(runs / "1" / "refills", runs / "3" / "refills")


def test_the_refills_were_needed(runs):
    # 2 groups a step are wanted, and in some step one was dropped, so that more than one batch was rolled out
    assert max(frame(runs / "2" / "refills", "steps")["groups_sampled"]) > 2


def test_the_trial_is_the_same_whatever_the_number_of_processes(runs):
    trials = {json.loads((runs / size / "saei" / schema.CONFIG_FILE).read_text())["trial_id"] for size in "12"}
    assert len(trials) == 1


def ends(runs: Path, number: int) -> list[str]:
    """How run `number` of the two processes ended for each of them."""
    return [outcomes(runs / "2", rank)[number] for rank in (0, 1)]


def test_what_is_wrong_for_the_writer_is_wrong_for_all(runs):
    for said in ends(runs, len(CASES)):
        assert said.startswith("RunBusy: ") and "is being written by another process" in said
    for said in ends(runs, len(CASES) + 1):
        assert said.startswith("BadInput: ") and "choose another --out" in said


def test_an_error_in_one_process_ends_the_others_with_it(runs):
    assert ends(runs, len(CASES) + 2) == ["ArithmeticError: planted"] * 2
    status = json.loads((runs / "2" / "failing" / schema.STATUS_FILE).read_text())
    assert (status["state"], status["message"]) == (schema.FAILED, "ArithmeticError: planted")


def test_weights_that_drift_apart_are_noticed_before_they_are_kept(runs):
    for said in ends(runs, len(CASES) + 3):
        assert said.startswith("RuntimeError: the 2 processes of this trial do not agree on the weights: [")
    assert not checkpoints(runs / "2" / "drifting" / schema.CHECKPOINTS_FOLDER)


def test_a_finished_run_is_finished_for_all(runs):
    assert ends(runs, len(CASES) + 4) == ["done"] * 2
    assert output(runs / "2", 0).read_text().count("is finished; nothing to do") == 1


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_one_process_continues_the_run(tmp_path, runs):
    config = float64(tmp_path / "run", "saei", **CASES["saei"], checkpoint__every=1)
    processes = start(tmp_path / "logs", [config], 2)
    folder = tmp_path / "run" / schema.CHECKPOINTS_FOLDER
    deadline = time.monotonic() + 120
    while not checkpoints(folder) and time.monotonic() < deadline:
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    codes = ended(processes, 60)
    assert codes == [0, -signal.SIGKILL], output(tmp_path / "logs", 0).read_text()[-3000:]
    (said,) = outcomes(tmp_path / "logs", 0)
    assert said.startswith("ProcessLost: another of the 2 processes of this trial ended")
    assert time.monotonic() - killed < 30  # a step of this size takes about one second
    status = json.loads((tmp_path / "run" / schema.STATUS_FILE).read_text())
    assert (status["state"], status["message"]) == (schema.FAILED, said)
    assert read_cursor(checkpoints(folder)[-1]).step in (1, 2)
    assert ended(start(tmp_path / "again", [config], 1), 120) == [0]
    assert outcomes(tmp_path / "again", 0) == ["done"]
    assert_nearly_same_run(tmp_path / "run", runs / "1" / "saei")


def place(rank: int, size: int) -> World:
    return World(Place(rank=rank, size=size, local_rank=rank, address="", port=0, one_machine=True, name=""))


def test_shares_are_neighbours_and_together_everything():
    assert [place(rank, 3).share("abcdefg") for rank in range(3)] == [["a", "b"], ["c", "d", "e"], ["f", "g"]]
    assert [place(rank, 3).share("ab") for rank in range(3)] == [["a"], [], ["b"]]
    assert [place(rank, 2).share("") for rank in range(2)] == [[], []]


def test_shares_cost_about_the_same():
    # of 12 in all: middles 3, 6.5, 7.5, 8.5, 10.5; the first half ends at 6
    assert [place(rank, 2).share("abcde", [6, 1, 1, 1, 3]) for rank in range(2)] == [["a"], ["b", "c", "d", "e"]]


def test_turns_are_taken_one_after_the_other():
    assert [place(rank, 2).turns("abcde") for rank in range(2)] == [["a", "c", "e"], ["b", "d"]]


def test_alone_everything_is_its_own():
    weight = torch.ones(2, requires_grad=True)
    weight.grad = torch.tensor([1.0, 2.0])
    ALONE.sum_gradients([weight])
    assert weight.grad.tolist() == [1.0, 2.0]
    assert ALONE.is_writer and ALONE.any_of(True) and not ALONE.any_of(False)
    assert (ALONE.gathered("ab"), ALONE.sums(3, 4), ALONE.from_writer(5)) == (["a", "b"], [3, 4], 5)
    assert (ALONE.agreed("x", "a letter"), ALONE.device("cuda:3")) == ("x", "cuda:3")


def test_tensors_travel_by_value():
    storage = torch.arange(1000, dtype=torch.float64)
    sent = {
        "part": storage[2:4],
        "scalar": torch.tensor(True),
        "half": torch.ones(2, 1, dtype=torch.bfloat16),
        "none": torch.empty(0, 3),
    }
    parcel = to_bytes([sent, sent["part"]])
    received, part = from_bytes(parcel)
    assert len(parcel) < 1000  # of 8,000 bytes of storage
    assert received["part"] is part
    for name, tensor in sent.items():
        assert (received[name].dtype, received[name].shape) == (tensor.dtype, tensor.shape)
        assert received[name].tolist() == tensor.tolist()


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_ID": "0",
}


def test_torchruns_variables_say_where_a_process_belongs():
    found = find_place(TORCHRUN)
    assert found is not None
    assert (found.rank, found.size, found.local_rank) == (1, 2, 1)
    assert (found.address, found.port, found.one_machine) == ("node1", 29500, False)


def test_a_task_of_a_slurm_step_finds_its_place():
    found = find_place(SLURM)
    assert found is not None
    assert (found.rank, found.size, found.local_rank, found.address) == (3, 4, 1, "127.0.0.1")
    again = find_place({**SLURM, "SLURM_RESTART_COUNT": "1"})
    assert again is not None and again.name != found.name
    assert 20000 <= found.port < 32000  # below the ports of outgoing connections


def test_torchrun_inside_of_a_slurm_step_is_torchruns():
    found = find_place({**SLURM, **TORCHRUN})
    assert found is not None and found.size == 2


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {**SLURM, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
        # a batch script of a job with several tasks: it is not one of them
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "12"},
    ],
)
def test_a_lone_process_is_alone(environ):
    assert find_place(environ) is None


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT is not set"),
        ({**TORCHRUN, "RANK": "2"}, "process number 2 of 2"),
        ({**TORCHRUN, "MASTER_PORT": "http"}, "MASTER_PORT is a whole number, got 'http'"),
    ],
)
def test_variables_that_do_not_fit_are_refused(environ, said):
    with pytest.raises(BadInput, match=said):
        find_place(environ)


def test_a_step_on_several_machines_meets_on_the_first(tmp_path, monkeypatch):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\n[ \"$*\" = 'show hostnames node[1-2]' ] && printf 'node1\\nnode2\\n'\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = find_place({**SLURM, "SLURM_STEP_NUM_NODES": "2"})
    assert found is not None and (found.address, found.one_machine) == ("node1", False)
    scontrol.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(BadInput, match="set MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE"):
        find_place({**SLURM, "SLURM_STEP_NUM_NODES": "2"})
