"""Real runs of the shipped model: each detector fired by the cause that its sentence names, and healthy runs silent.

The synthetic series of `test_detectors.py` pin the thresholds; here a setting is made bad enough for training itself to
show the sign, by a wide margin, so that another machine's last digits cannot hide it.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from saei import schema, train, update
from saei.config import Config
from saei.detectors import detect
from saei.recorder import Recorder
from tests.runs import frame, small_config
from tests.test_detectors import moved_views
from tests.test_detectors import run as series

QUIET: dict[str, Any] = {
    "eval__every": 0,
    "eval__problems": 1,
    "eval__samples": 1,
    "eval__test_problems": 1,
    "record__fresh_every": 0,
    "record__strips_per_step": 0,
    "checkpoint__every": 10,
}
"""What no detector here reads is left out; alarms are told at checkpoints."""


@dataclass(frozen=True)
class Told:
    """A finished run: its settings, its alarms, and what it had told at each checkpoint before."""

    config: Config
    alarms: list[dict[str, Any]]
    earlier: list[list[dict[str, Any]]]

    @property
    def steps(self) -> pd.DataFrame:
        return frame(Path(self.config.out), "steps")

    def only(self, detector: str) -> dict[str, Any]:
        """The first alarm of a detector; fails the test where it is silent."""
        found = [alarm for alarm in self.alarms if alarm["detector"] == detector]
        assert found, f"{detector} is silent; told: {[alarm['sentence'] for alarm in self.alarms]}"
        assert found[0]["sentence"].startswith(f"step {found[0]['step']}: ")
        assert found[0]["setting"] in found[0]["sentence"]
        return found[0]

    def mean(self, column: str, last: int) -> float:
        """Of the ten steps that end with `last`."""
        return float(self.steps[column][last - 9 : last + 1].mean())


@pytest.fixture(scope="module")
def tell(tmp_path_factory) -> Iterator[Callable[..., Told]]:
    """Train a preset at small size, with settings of its own (`__` for the dot), and read what it told."""
    earlier: list[list[dict[str, Any]]] = []
    write = Recorder.alarms

    def keep(self: Recorder, alarms: list[dict[str, Any]]) -> None:
        earlier.append(alarms)
        write(self, alarms)

    def run(preset: str, **settings: Any) -> Told:
        earlier.clear()
        config = small_config(tmp_path_factory.mktemp(preset), preset, **{**QUIET, **settings})
        train.train(config)
        return Told(config, alarms_of(config), list(earlier))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "alarms", keep)
        yield run


def alarms_of(config: Config) -> list[dict[str, Any]]:
    return json.loads((Path(config.out) / schema.ALARMS_FILE).read_text())["alarms"]


def lr_that_jumps(step: int, config: Config) -> float:
    return update.learning_rate(step, config) * (1000 if step == 20 else 1)


@pytest.fixture(scope="module")
def form(tell) -> Told:
    """Reward for form alone, on problems the model cannot solve, while likely tokens are made likelier still; then,
    at step 20, a learning rate 1000 times as high."""
    with pytest.MonkeyPatch.context() as jump:
        jump.setattr(train, "learning_rate", lr_that_jumps)
        return tell(
            "grpo",
            steps=21,
            data__source="shapes",
            rollout__problems_per_step=4,
            rollout__max_new_tokens=18,
            rollout__top_p=0.7,
            reward__accuracy_weight=0.0,
            reward__format_weight=1.0,
            loss__nll_coef=1.0,
            optim__lr=2e-4,
        )


def test_a_reward_of_form_alone_is_told_as_form(form):
    alarm = form.only("format_only")
    # the second window of ten begins where the first ends
    assert alarm["step"] == 19 and alarm["setting"] == "reward.format_weight"
    before, now = form.mean("reward", 9), form.mean("reward", 19)
    assert f"reward rose from {before:.3f} to {now:.3f}" in alarm["sentence"]


def test_entropy_that_nothing_holds_up_is_told_as_collapse(form):
    alarm = form.only("entropy_collapse")
    assert alarm["setting"] == "control.coef" and 14 <= alarm["step"] < 20
    first = form.steps["entropy"][:5].mean()
    assert f"(mean {form.mean('entropy', alarm['step']):.3g} of {first:.3g} nats)" in alarm["sentence"]
    assert (form.steps["entropy"][alarm["step"] - 9 : alarm["step"] + 1] < 0.3 * first).all()


def test_a_learning_rate_that_jumps_makes_a_spike(form):
    alarm = form.only("loss_spike")
    assert (alarm["step"], alarm["setting"]) == (20, "optim.lr")
    assert f"loss {form.steps['loss'][20]:.3g} (usual {form.steps['loss'][:20].median():.3g})" in alarm["sentence"]


def test_alarms_are_told_while_the_run_goes_on_and_stay_as_told(form):
    # checkpoints after steps 10, 20 and 21, then the end
    assert len(form.earlier) == 4
    for done, told in zip((10, 20, 21, 21), form.earlier, strict=True):
        assert told == [alarm for alarm in form.alarms if alarm["step"] < done]
    assert form.earlier[1]  # before the run was over


def test_a_resumed_run_tells_the_same_alarms(form, monkeypatch):
    rewind(form.config, to=20)
    monkeypatch.setattr(train, "learning_rate", lr_that_jumps)
    train.train(form.config)
    assert alarms_of(form.config) == form.alarms


def rewind(config: Config, to: int) -> None:
    """What a kill after the checkpoint at `to` leaves: later checkpoints, the alarms and DONE were never written."""
    folder = Path(config.out)
    for name in (schema.DONE_FILE, schema.ALARMS_FILE):
        (folder / name).unlink()
    kept = [path for path in (folder / schema.CHECKPOINTS_FOLDER).iterdir() if path.name.endswith(f"{to:06d}")]
    assert len(kept) == 1
    for path in (folder / schema.CHECKPOINTS_FOLDER).iterdir():
        if path != kept[0]:
            for file in path.iterdir():
                file.unlink()
            path.rmdir()


@pytest.fixture(scope="module")
def bonus(tell) -> Told:
    """An entropy bonus that drowns the reward."""
    return tell("entropy_bonus", steps=15, control__coef=100.0, optim__lr=1e-3)


def test_a_bonus_without_bound_is_told_as_explosion_and_points_at_its_coefficient(bonus):
    alarm = bonus.only("entropy_explosion")
    # five steps of start and ten above the limit
    assert (alarm["step"], alarm["setting"]) == (14, "control.coef")
    assert (
        f"(mean {bonus.mean('entropy', 14):.3g}, at the start {bonus.steps['entropy'][:5].min():.3g})"
        in (alarm["sentence"])
    )


def test_a_policy_that_no_longer_ends_its_answers_is_told_as_runaway_length(bonus):
    alarm = bonus.only("length_runaway")
    assert alarm["setting"] == "reward.overlong_buffer"
    cut = bonus.mean("truncated_share", alarm["step"])
    assert cut >= bonus.steps["truncated_share"][:5].mean() + 0.3
    assert f"{cut:.0%} of them are cut" in alarm["sentence"]


@pytest.fixture(scope="module")
def cut_short(tell) -> Told:
    """Six tokens hold no answer: all completions are wrong; and tokens are scored against the same image."""
    return tell("vepo", steps=10, rollout__max_new_tokens=6, score__view="mask", score__mask_share=0.0)


def test_groups_that_are_all_wrong_are_told_as_silent(cut_short):
    alarm = cut_short.only("zero_signal")
    assert (alarm["step"], alarm["setting"]) == (9, "filter.rule")
    assert "100% of the groups" in alarm["sentence"]


def test_tokens_scored_against_the_same_image_are_told_as_degenerate(cut_short):
    alarm = cut_short.only("score_degenerate")
    assert (alarm["step"], alarm["setting"]) == (0, "score.view")
    assert "100% of the completions" in alarm["sentence"]


def test_a_learning_rate_that_destroys_the_weights_is_told_as_skipped_updates(tell):
    run = tell("grpo", steps=3, optim__lr=1e4)
    alarm = run.only("skipped_updates")
    assert alarm["setting"] == "optim.lr" and alarm["step"] <= 1
    assert f"not finite: {run.steps['skipped_updates'][alarm['step']]}; look at optim.lr" in alarm["sentence"]


def test_a_step_too_large_for_noise_to_match_is_told_as_an_unmatched_control(tell):
    # every channel of a 28 x 28 image already sits at its nearest or farthest end: noise cannot be made longer
    settings = {"rollout__problems_per_step": 8, "rollout__n_clean": 1, "rollout__n_view": 1}
    settings |= {"rollout__max_new_tokens": 12, "data__max_pixels": 784}
    alarm = tell("gaussian", steps=1, view__step_size=255.0, **settings).only("unmatched_control")
    assert (alarm["step"], alarm["setting"]) == (0, "view.step_size")
    assert tell("gaussian", steps=1, view__step_size=2.0, **settings).alarms == []


def test_images_moved_beyond_reading_are_told_as_too_strong_an_attack(tell):
    run = tell("saei", steps=10, view__step_size=128.0, rollout__n_clean=4, rollout__n_view=4)
    (alarm,) = run.alarms
    assert (alarm["detector"], alarm["step"], alarm["setting"]) == ("attack_too_strong", 9, "view.step_size")
    views = frame(Path(run.config.out), "views").groupby("view")["reward_accuracy"].mean()
    assert f"accuracy on moved images is {views['egas']:.3f}, on clean ones {views['clean']:.3f}" in (alarm["sentence"])
    assert alarm["sentence"].endswith("which moves pixels by 128 levels")


@pytest.mark.parametrize("preset", [pytest.param("grpo", marks=pytest.mark.slow), "saei"])
def test_a_healthy_run_tells_nothing_and_nothing_when_resumed(tell, preset):
    run = tell(preset, steps=30)
    assert (run.alarms, run.earlier) == ([], [[]] * 4)
    rewind(run.config, to=20 if preset == "grpo" else 30)
    train.train(run.config)
    assert alarms_of(run.config) == []


def test_accuracy_near_zero_on_clean_images_too_is_not_the_attack():
    # means of ten: 0.02 against 0 is below half, and is noise; 0.2 against 0 is not
    moved = {"reward_accuracy": {0: 0.0}}
    dead, alive = {"reward_accuracy": {0: 0.02}}, {"reward_accuracy": {0: 0.2}}
    assert detect(series(attack_linf={0: 64 / 255}), moved_views(clean=dead, moved=moved), []) == []
    (alarm,) = detect(series(attack_linf={0: 64 / 255}), moved_views(clean=alive, moved=moved), [])
    assert alarm.detector == "attack_too_strong"


def test_a_policy_that_comes_apart_within_the_first_steps_is_told_as_explosion():
    # calmest start 0.2, so the limit is 0.6; the mean of the start, 0.2 + 4 x 3.0 over 5 = 2.44, would put it at 7.3
    (alarm,) = detect(series(entropy={1: 3.0}), [], [])
    assert (alarm.detector, alarm.step, alarm.setting) == ("entropy_explosion", 14, "optim.lr")
    assert "at the start 0.2)" in alarm.sentence


def test_a_penalty_on_length_that_shrinks_is_no_gain_of_form():
    # reward 0.45 to 0.55 with accuracy as it was: by the penalty that goes, or by form
    rises = {"reward": {0: 0.45, 20: 0.55}}
    assert detect(series(**rises, overlong_penalty={0: 0.1, 20: 0.0}), [], []) == []
    (alarm,) = detect(series(**rises, overlong_penalty={0: 0.1}), [], [])
    assert (alarm.detector, alarm.step) == ("format_only", 22)  # the mean of ten is 0.03 up with 3 of them at 0.65
    assert "reward before the overlong penalty rose from 0.550 to 0.580" in alarm.sentence


@pytest.mark.slow
def test_a_far_too_large_learning_rate_is_told_as_explosion(tell):
    assert tell("grpo", steps=15, optim__lr=3e-2).only("entropy_explosion")["setting"] == "optim.lr"


@pytest.mark.slow
def test_clean_accuracy_that_falls_under_a_strong_attack_trained_as_sampled_is_told_as_too_strong(tell):
    settings = {"view__step_size": 64.0, "loss__train_view": "as_sampled", "rollout__problems_per_step": 4}
    alarm = tell("saei", steps=22, optim__lr=1e-3, **settings).only("attack_too_strong")
    assert alarm["setting"] == "view.step_size"
    assert "clean accuracy fell from" in alarm["sentence"] and "entropy rose from" in alarm["sentence"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["grpo", "saei", "noisyrollout", "vepo", "dapo", "entropy_bonus"])
def test_healthy_runs_of_the_default_rates_tell_nothing(tell, preset):
    assert tell(preset, steps=60, rollout__problems_per_step=4).alarms == []
