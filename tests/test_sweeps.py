import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from saei.cli import run_main
from sweeps.definition import Sweep, load_sweep, parse_setting, select_arms, sweep_names
from sweeps.live import cells, duration, time_left
from sweeps.locks import hold, is_held
from sweeps.plan import make_trials
from sweeps.run import main
from sweeps.trial import is_busy
from tests.fake_trainer import TRAINER

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
PAIR = ["components", "--only", "grpo", "--only", "saei", "--no-report"]


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "executions"))
    return tmp_path / "results"


def sweep(*words, results):
    return run_main(lambda: main([*words, "--results", str(results)], trainer=TRAINER))


def executions(results):
    """Lines of (trial id, first step, threads), one per execution of the trainer."""
    path = results.parent / "executions"
    return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []


def start(*words, results, step_s=0.0):
    """The runner as a process of its own, in its own group as in a terminal."""
    command = [sys.executable, "-m", "tests.fake_trainer", *words, "--results", str(results)]
    environment = {**os.environ, "FAKE_STEP_S": str(step_s)}
    # a shell's background job ignores SIGINT and hands that down; a terminal's does not
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip


def wait_for(condition, what, seconds=40.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.05)
    return found


def running_pids(results):
    found = [json.loads(path.read_text()) for path in results.glob("*/*/status.json")]
    return [tree["pid"] for tree in found if tree["state"] == "running"]


def is_alive(pid):
    """Not gone, and not a zombie that its parent has yet to collect."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def plan(results, name="components"):
    return json.loads((results / name / "plan.json").read_text())


# ---- definitions and command line


COUNTS = {
    "adaptive_band": 10, "attack_strength": 28, "collapse": 1, "components": 10, "controls": 10, "credit": 12,
    "group_split": 6, "methods": 27, "pgd_iterations": 8, "robustness": 3, "search": 2, "selection": 12, "step_size": 8,
    "text_attack": 9, "transfer": 4, "tsec_ratio": 9,
}  # fmt: skip


def test_the_sweeps_have_their_arms_and_no_two_arms_are_one_trial(tmp_path):
    counts = COUNTS
    assert sweep_names() == sorted(counts)
    for name, count in counts.items():
        definition = load_sweep(name)
        arms = select_arms(definition, (), demo=False)
        trials = make_trials(name, definition, arms, range(2), {}, tmp_path)  # raises for equal arms
        assert len({trial.trial_id for trial in trials}) == 2 * count, name
        baseline = next(trial for trial in trials if trial.arm == definition.baseline)
        assert [tuple(entry) for entry in baseline.config.group_plan()] == [("clean", 12)], name


def test_the_baseline_is_the_same_trial_in_every_sweep_that_measures_the_same(tmp_path):
    measures_more = {"methods", "robustness", "transfer"}  # other evaluations: other trials
    ids = {
        make_trials(name, load_sweep(name), [load_sweep(name).baseline], [0], {"steps": 5}, tmp_path)[0].trial_id
        for name in set(sweep_names()) - measures_more
    }
    assert len(ids) == 1


def test_arms_that_only_clips_tell_apart_are_refused_with_one_update_a_step(tmp_path):
    sweep = Sweep(
        question="?",
        arms={
            "grpo": {},
            "clip_higher": {"loss.clip_high": 0.28},
            "cispo": {"loss.name": "cispo"},
            "gspo": {"loss.name": "gspo"},
        },
        baseline="grpo",
        primary_contrast=("clip_higher", "grpo"),
    )
    assert len(make_trials("x", sweep, list(sweep.arms), [0], {}, tmp_path)) == 4
    for other in ("clip_higher", "cispo", "gspo"):
        with pytest.raises(ValueError, match=f"arms grpo and {other} are the same trial.*raise optim.updates_per_step"):
            make_trials("x", sweep, ["grpo", other], [0], {"optim.updates_per_step": 1}, tmp_path)


def test_a_ratio_method_with_one_update_a_step_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"loss\.name kl_cov acts on importance ratios"):
        make_trials("methods", load_sweep("methods"), ["kl_cov"], [0], {"optim.updates_per_step": 1}, tmp_path)


def test_grpo_matched_is_in_components_and_methods_and_has_more_clean_completions():
    for name in ("components", "methods"):
        assert load_sweep(name).arms["grpo_matched"]["rollout.n_clean"] == 19


def test_the_matched_size_lies_where_the_costs_meet():
    from sweeps.match import matched_completions

    # costs 100 at 12 and 220 at 24: 10 a completion; 170 is met at 12 + 7
    assert matched_completions(170.0, 100.0, 220.0) == 19


@pytest.mark.slow  # four short runs of the shipped model
def test_grpo_matched_costs_what_saei_costs_within_four_per_cent():
    from sweeps.match import MatchConfig, step_cost

    settings = MatchConfig(steps=4)
    wanted, reached = (
        sum(step_cost(name, settings, **more))
        for name, more in (("saei", {}), ("grpo", {"rollout.n_clean": 19, "rollout.n_view": 0}))
    )
    assert reached == pytest.approx(wanted, rel=0.04)


def test_kept_shares_of_tsec_ratio_are_exact_and_centred():
    from fractions import Fraction

    arms = load_sweep("tsec_ratio").arms
    # keep 3/5 around the median: drop (1 - 3/5) / 2 = 1/5 on each side; keep 1/5: drop 2/5
    assert arms["middle_3_5"] == {"select.drop_low": Fraction(1, 5), "select.drop_high": Fraction(1, 5)}
    assert arms["middle_1_5"] == {"select.drop_low": Fraction(2, 5), "select.drop_high": Fraction(2, 5)}


def test_bad_words_end_with_code_2_before_torch_is_loaded():
    code = """
import sys
from saei.cli import run_main
from sweeps.run import main
bad = ["", "tsec_rato", "status nothing", "logs", "cancel", "why", "diff", "tsec_ratio --only grop",
       "tsec_ratio --jobs 0", "tsec_ratio --on cloud", "tsec_ratio --sedes 3", "step_size --set view.step_size=3",
       "collapse --demo", "tsec_ratio --set view.step_size=-2/255", "tsec_ratio --set optim.lrr=1",
       "tsec_ratio --set seed=3"]
for words in bad:
    try:
        code = run_main(lambda: main(words.split()))
    except SystemExit as stop:
        code = stop.code
    assert code == 2, (words, code)
assert "torch" not in sys.modules
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    for sentence in ("did you mean tsec_ratio?", "did you mean grpo?", "did you mean optim.lr?"):
        assert sentence in ended.stderr, sentence
    assert "write 2/255" in ended.stderr  # the paper's -2/255


def test_settings_on_the_command_line_get_the_type_of_their_field():
    from fractions import Fraction

    assert parse_setting("view.step_size=3/255") == ("view.step_size", 3.0)
    assert parse_setting("select.drop_low=1/4") == ("select.drop_low", Fraction(1, 4))
    assert parse_setting("select.share=0.2") == ("select.share", Fraction(1, 5))  # not the nearest binary fraction
    assert parse_setting("rollout.plan=clean:4 egas:8") == ("rollout.plan", ("clean:4", "egas:8"))
    assert parse_setting("data.shifted_splits=noise") == ("data.shifted_splits", ("noise",))
    assert parse_setting("model.freeze_vision=true") == ("model.freeze_vision", True)
    assert parse_setting("model.path=other/model") == ("model.path", "other/model")
    with pytest.raises(ValueError, match=r"model.freeze_vision is true or false, got 'no'"):
        parse_setting("model.freeze_vision=no")


def test_a_launch_refuses_names_that_no_table_has(tmp_path):
    sweep = load_sweep("tsec_ratio")
    with pytest.raises(ValueError, match=r"loss\.name is one of grpo, .*, got gpro: did you mean gspo"):
        make_trials("tsec_ratio", sweep, ["grpo"], range(1), {"loss.name": "gpro"}, tmp_path)


def test_a_definition_that_compares_with_an_unknown_arm_is_refused():
    with pytest.raises(ValueError, match="'b' is not an arm"):
        Sweep(question="?", arms={"a": {}}, baseline="a", primary_contrast=("b", "a"))


def test_list_names_every_sweep(capsys):
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert set(COUNTS) == set(sweep_names()) and set(sweep_names()) <= set(shown)


# ---- running, recording, not running again


def test_a_second_launch_runs_only_what_is_missing_and_marks_it_exploratory(results, capsys):
    assert sweep(*PAIR, "--seeds", "1", "--steps", "2", "--jobs", "2", results=results) == 0
    assert [line[1:] for line in executions(results)] == [("0", "1")] * 2  # from step 0, one thread each
    assert "finished" in capsys.readouterr().out
    assert sweep(*PAIR, "--seeds", "1", "--steps", "2", results=results) == 0
    assert len(executions(results)) == 2

    assert sweep(*PAIR, "--seeds", "2", "--steps", "2", "--jobs", "2", results=results) == 0
    assert len(executions(results)) == 4
    now = plan(results)
    assert now["baseline"] == "grpo" and now["primary_contrast"] == ["saei", "grpo"] and now["seeds"] == [0, 1]
    assert now["primary_metric"] == "test/mean@8" and now["steps"] == 2
    assert [(entry["arm"], entry["seed"], entry["exploratory"]) for entry in now["trials"]] == [
        ("grpo", 0, False),
        ("saei", 0, False),
        ("grpo", 1, True),
        ("saei", 1, True),
    ]

    study = results / "components" / "study.log"
    before = study_values(study)
    # seed 0 and 1 of GRPO score 0.50, 0.51; SaEI 0.60, 0.61
    assert sorted(before.values()) == pytest.approx([0.50, 0.51, 0.60, 0.61])
    study.unlink()
    assert sweep(*PAIR, "--seeds", "2", "--steps", "2", results=results) == 0
    assert study_values(study) == before and len(executions(results)) == 4


def study_values(path):
    storage = JournalStorage(JournalFileBackend(str(path)))
    study = optuna.load_study(study_name="components", storage=storage)
    return {trial.user_attrs["trial_key"]: trial.value for trial in study.trials}


def test_another_number_of_steps_is_another_plan_and_the_first_one_comes_back(results):
    for steps in ("1", "2", "1"):
        assert sweep(*PAIR, "--seeds", "1", "--steps", steps, "--jobs", "2", results=results) == 0
    now = plan(results)
    assert now["steps"] == 1 and not any(entry["exploratory"] for entry in now["trials"])
    assert [other["steps"] for other in now["earlier_plans"]] == [2]
    assert len(executions(results)) == 4


def test_an_equal_trial_of_another_sweep_is_pointed_to_until_it_vanishes(results):
    few = ["--seeds", "1", "--steps", "1", "--no-report"]
    assert sweep("components", "--only", "grpo", *few, results=results) == 0
    assert sweep("group_split", "--only", "split_12_0", *few, results=results) == 0
    (pointer,) = results.glob("group_split/*/SAME_AS")
    target = (pointer.parent / pointer.read_text().strip()).resolve()
    assert target == next(results.glob("components/*/DONE")).parent.resolve()
    assert len(executions(results)) == 1

    (target / "DONE").unlink()
    assert sweep("group_split", "--only", "split_12_0", *few, results=results) == 0
    assert not pointer.exists() and (pointer.parent / "DONE").exists()
    assert len(executions(results)) == 2


def test_a_failing_trial_is_shown_and_the_others_go_on(results, capsys, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL_SEED", "0")
    assert sweep(*PAIR, "--seeds", "2", "--steps", "1", "--jobs", "2", results=results) == 1
    shown = capsys.readouterr()
    assert "ArithmeticError: the fake trainer was told to fail" in shown.out and "_log.err" in shown.out
    assert shown.err.count("failed: grpo seed 0, saei seed 0\n") == shown.err.count("ArithmeticError") == 1
    assert "run.py why components/grpo-s0" in shown.err and "2 of 4 trials are finished" in shown.out
    assert len(list(results.glob("components/*/DONE"))) == 2
    states = Counter(trial.state for trial in optuna.load_study(
        study_name="components",
        storage=JournalStorage(JournalFileBackend(str(results / "components" / "study.log"))),
    ).trials)  # fmt: skip
    assert states == {optuna.trial.TrialState.FAIL: 2, optuna.trial.TrialState.COMPLETE: 2}


# ---- processes that die


def test_a_killed_worker_fails_its_trial_and_a_second_launch_continues_it(results):
    words = [*PAIR, "--seeds", "1", "--steps", "20", "--jobs", "2"]
    runner = start(*words, results=results, step_s=0.1)
    victim, *_ = wait_for(lambda: len(running_pids(results)) == 2 and running_pids(results), "two running trials")
    time.sleep(0.3)  # three steps
    os.kill(victim, signal.SIGKILL)
    out, _ = runner.communicate(timeout=60)
    assert runner.returncode == 1 and "killed, probably by the system's out-of-memory killer" in out, out
    assert len(list(results.glob("components/*/DONE"))) == 1
    assert sweep(*words, results=results) == 0
    assert len(executions(results)) == 3 and int(executions(results)[-1][1]) > 0  # not from the start


def test_workers_stop_when_their_runner_is_killed_and_a_second_launch_continues(results):
    words = [*PAIR, "--seeds", "1", "--steps", "400", "--jobs", "2"]
    runner = start(*words, results=results, step_s=0.05)
    pids = wait_for(lambda: len(running_pids(results)) == 2 and running_pids(results), "two running trials")
    time.sleep(0.3)
    runner.kill()
    runner.wait(timeout=10)
    wait_for(lambda: not any(is_alive(pid) for pid in pids), "workers without a runner to end", 10)
    assert sweep(*words, results=results) == 0
    assert [int(first) > 0 for _, first, _ in executions(results)] == [False, False, True, True]


def test_ctrl_c_ends_with_130_leaves_no_process_and_the_next_launch_continues(results):
    words = [*PAIR, "--seeds", "1", "--steps", "400", "--jobs", "2"]
    runner = start(*words, results=results, step_s=0.05)
    pids = wait_for(lambda: len(running_pids(results)) == 2 and running_pids(results), "two running trials")
    os.killpg(runner.pid, signal.SIGINT)  # as the terminal does
    out, _ = runner.communicate(timeout=30)
    assert runner.returncode == 130, out
    assert "the same command continues" in out
    assert not any(is_alive(pid) for pid in pids)
    states = [json.loads(path.read_text())["state"] for path in results.glob("components/*/status.json")]
    assert states == ["interrupted", "interrupted"]
    assert sweep(*words, results=results) == 0
    assert len(list(results.glob("components/*/DONE"))) == 2


def test_two_runners_at_once_run_every_trial_once(results):
    words = ["--seeds", "2", "--steps", "10", "--jobs", "2", "--no-report"]
    here = start("components", "--only", "grpo", "--only", "saei", *words, results=results, step_s=0.05)
    there = start("components", "--only", "saei", "--only", "grpo", *words, results=results, step_s=0.05)
    # an equal trial in another sweep counts too: 12:0 is GRPO, 6:6 is SaEI
    other = start("group_split", "--only", "split_12_0", "--only", "split_6_6", *words, results=results, step_s=0.05)
    outs = [runner.communicate(timeout=90)[0] for runner in (here, there, other)]
    assert [runner.returncode for runner in (here, there, other)] == [0, 0, 0], "\n".join(outs)
    counts = Counter(trial for trial, _, _ in executions(results))
    assert len(counts) == 4 and set(counts.values()) == {1}


def test_a_lock_is_seen_while_it_is_held_and_not_after(tmp_path):
    from saei.recorder import run_lock

    (trial,) = make_trials("components", load_sweep("components"), ["grpo"], [0], {}, tmp_path)
    assert not is_busy(trial)
    with run_lock(trial.folder):  # the trainer's own lock
        assert is_busy(trial)
    with hold(trial.lock):
        assert is_busy(trial)
    assert not is_busy(trial) and not is_held(tmp_path / "nothing")


# ---- what is shown


def test_time_left_is_steps_times_the_mean_speed_over_the_workers(tmp_path):
    trials = make_trials("components", load_sweep("components"), ["grpo", "saei"], [0], {"steps": 10}, tmp_path)
    statuses = {trials[0].trial_id: {"step": 4, "time_step": 2.0}}
    # 6 steps of the running one and 10 of the waiting one, 2 s each, by 2 workers: 16 s
    assert time_left(trials, statuses, jobs=2) == 16.0
    assert [duration(seconds) for seconds in (59, 90, 3720)] == ["59 s", "1 min 30 s", "1 h 2 min"]


def test_a_status_that_lacks_a_number_shows_a_dash():
    assert cells({}) == ["-", "-", "-", "-"]
    assert cells({"step": 2, "reward": "x", "time_step": 1.5}) == ["-", "-", "-", "1.500"]
    assert cells({"step": 2, "steps": 4, "reward": 0.25, "entropy": None}) == ["2/4", "0.250", "-", "-"]
