import io
import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from rich.console import Console

from saei.config import DataConfig, ModelConfig, ViewConfig
from saei.data import load_problems
from saei.evaluate import first_problems
from saei.make_view import make_view
from saei.policy import load_policy
from saei.probe import run as probe
from saei.probe.conditions import CONDITIONS, derived, scaled_to
from saei.probe.config import SHOWN, ProbeConfig
from saei.probe.gradient import cosine, dot, gradient_figures, norm
from saei.probe.rows import STREAM, answers, group_answers
from saei.probe.summary import by_condition, differences, interval, level, metrics
from saei.probe.tables import WIDTH, difference_tables, figure, level_table, size_sentence
from saei.reward import Grade, Scorer
from saei.rollout import GroupsInProgress, sample_view
from saei.seeding import torch_generator
from saei.types import ScoreRequest
from saei.views.ledger import l2_levels


def grade(answer: str, right: bool) -> Grade:
    return Grade(accuracy=float(right), format=1.0, status="ok", answer=answer)


def image(level: int) -> torch.Tensor:
    return torch.full((3, 2, 2), level, dtype=torch.uint8)


def test_a_residual_is_scaled_to_the_l2_that_is_asked_for():
    # 12 channels moved by 10; L2 of a move by 3 everywhere: sqrt(12 * 9)
    (moved,) = scaled_to((image(100),), (image(110),), math.sqrt(12 * 9))
    assert moved.eq(103).all()


def test_a_scaled_residual_keeps_its_shape_and_matches_within_two_per_cent():
    generator = torch.Generator().manual_seed(0)
    clean = (torch.randint(0, 256, (3, 28, 28), generator=generator, dtype=torch.uint8),)
    noisy = (torch.randint(0, 256, (3, 28, 28), generator=generator, dtype=torch.uint8),)
    wanted = 2 * math.sqrt(3 * 28 * 28)  # as an attack that moves every channel by 2 levels
    moved = scaled_to(clean, noisy, wanted)
    assert l2_levels(clean, moved) == pytest.approx(wanted, rel=0.02)
    before, after = (images[0].to(torch.float64) for images in (clean, moved))
    assert ((after - before) * (noisy[0].to(torch.float64) - before) >= 0).all()


def test_no_attack_asks_for_no_noise_and_a_weak_noise_is_left_as_it_is():
    assert scaled_to((image(7),), (image(9),), 0.0)[0].equal(image(7))
    assert scaled_to((image(7),), (image(9),), 1e6)[0].equal(image(9))


def test_the_interval_of_four_values_by_hand():
    # mean 2.5, sd sqrt(5/3), t(0.975; 3) = 3.18245: half = 3.18245 * 1.290994 / 2
    mean, half, n = interval([1.0, 2.0, math.nan, 3.0, 4.0])
    assert (mean, n) == (2.5, 4)
    assert half == pytest.approx(2.05427, abs=1e-4)
    assert math.isnan(interval([1.0])[1])
    assert interval([math.nan])[2] == 0


def test_what_six_completions_reached_alone():
    # two right of six, three different answers; pass@3 = 1 - C(4,3)/C(6,3) = 1 - 4/20
    grades = [grade("5", True), grade("5", True), grade("6", False), grade("7", False), grade("", False)]
    grades.append(grade("7", False))
    found = answers(grades, [1.0, 1.0, 0.1, 0.1, 0.0, 0.1])
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["reward"] == pytest.approx(2.3 / 6)
    assert found["distinct"] == 3
    assert (found["pass_at_3"], found["pass_at_6"]) == (pytest.approx(0.8), 1.0)
    assert found["zero_signal"] == 0


@pytest.mark.parametrize(("before", "after", "new"), [(0, 1, 1), (1, 1, 0), (0, 0, 0), (1, 0, 0)])
def test_a_problem_is_new_when_only_the_view_solved_it(before, after, new):
    group = [grade("1", bool(before)), grade("2", False), grade("3", bool(after)), grade("2", False)]
    found = group_answers(group, [0.1 + 0.9 * g.accuracy for g in group], 2)
    assert found["new"] == new
    assert found["distinct_group"] == 3
    assert found["zero_signal_group"] == float(not before and not after)


def synthetic() -> list[dict]:
    """Two problems; EgAS adds 0.25 and 0.75 nats; its rows come in another order than the control's."""
    row = {"l2": 0.0, "accuracy": 0.5, "new": 0.0}
    return [
        {**row, "condition": "clean", "step_size": math.nan, "problem_id": "a", "entropy_all": 0.0},
        {**row, "condition": "clean", "step_size": math.nan, "problem_id": "b", "entropy_all": 0.0},
        {**row, "condition": "clean_again", "step_size": math.nan, "problem_id": "a", "entropy_all": 1.0},
        {**row, "condition": "clean_again", "step_size": math.nan, "problem_id": "b", "entropy_all": 2.0},
        {**row, "condition": "egas", "step_size": 2.0, "problem_id": "b", "entropy_all": 2.75, "l2": 1.0},
        {**row, "condition": "egas", "step_size": 2.0, "problem_id": "a", "entropy_all": 1.25, "l2": 1.0},
        {**row, "condition": "noise", "step_size": 2.0, "problem_id": "a", "entropy_all": 1.0, "l2": 1.01},
        {**row, "condition": "noise", "step_size": 2.0, "problem_id": "b", "entropy_all": 2.0, "l2": 1.03},
        {**row, "condition": "egas", "step_size": 4.0, "problem_id": "a", "entropy_all": 9.0, "l2": 2.0},
    ]


def test_differences_are_paired_by_problem_and_by_step_size():
    by_name = {(d.condition, d.metric): d for d in differences(synthetic(), 2.0, "problem_id")}
    found = by_name["egas", "entropy_all"]
    # 0.25 and 0.75: sd 0.353553, t(0.975; 1) = 12.7062: half = 12.7062 * 0.353553 / sqrt(2) = 3.17655
    assert (found.mean, found.pairs) == (0.5, 2)
    assert found.half == pytest.approx(3.17655, abs=1e-3)
    assert by_name["noise", "entropy_all"].mean == 0
    assert level(by_condition(synthetic(), 2.0)["egas"], "entropy_all") == 2.0


def test_controls_of_another_size_are_counted():
    # 1.01 is within 2 % of 1, 1.03 is not
    assert size_sentence(synthetic(), 2.0) == "L2 within 2 % of egas's, problems: noise 1 of 2"


@pytest.fixture(scope="module")
def policy():
    return load_policy(ModelConfig(), DataConfig())


@pytest.fixture(scope="module")
def problems():
    return first_problems(load_problems(DataConfig(train_size=64), "train"), 4)


# warm enough for completions of two to differ in reward
SMALL = {"completions": 2, "chunk": 2, "temperature": 1.5, "data": DataConfig(train_size=64)}


def ran(policy, problems, **changed) -> tuple[pd.DataFrame, pd.DataFrame]:
    settings = ProbeConfig(**{**SMALL, **changed})
    with Scorer(settings.reward) as scorer:
        rows, gradients = probe.probe(policy, scorer, problems, settings)
    return pd.DataFrame(rows), pd.DataFrame(gradients)


@pytest.fixture(scope="module")
def whole(policy, problems):
    return ran(policy, problems)


def test_a_row_for_each_problem_and_condition_all_at_egas_size(whole):
    rows, gradients = whole
    assert rows.groupby("condition").size().to_dict() == dict.fromkeys(("clean", *SHOWN), 4)
    assert gradients.groupby("condition").size().to_dict() == dict.fromkeys(SHOWN, 2)
    l2 = rows.pivot(index="problem_id", columns="condition", values="l2")
    for name in ("random_sign", "gaussian", "noise"):
        assert (l2[name] / l2["egas"] - 1).abs().max() < 0.02, name
    assert (l2["noise_500"] > 10 * l2["egas"]).all()
    assert (l2["clean_again"] == 0).all()


def test_ascent_raises_the_entropy_of_the_tokens_that_it_reads(whole):
    kept = whole[0].pivot(index="problem_id", columns="condition", values="entropy_kept")
    assert (kept["egas"] > kept["clean_again"]).mean() >= 0.75
    assert kept["clean_again"].equals(kept["clean"])


def test_the_controls_are_the_views_of_their_names(policy, problems):
    config = ProbeConfig(**SMALL).base()
    progress = GroupsInProgress.begin(policy, problems[:2])
    progress.images["clean"] = [[prompt.images] for prompt in progress.prompts]
    sample_view(policy, progress, "clean", 2, config, STREAM)
    for name in ("egas", "random_sign", "gaussian"):
        make_view(policy, progress, name, 2, config, STREAM)
    for name in ("random_sign", "gaussian"):
        for i, prompt in enumerate(progress.prompts):
            generator = torch_generator(0, "attack", STREAM, prompt.problem_id)
            derive = CONDITIONS[name].derive
            assert derive is not None
            (made,) = derived(derive, prompt.images, progress.images["egas"][i], generator)
            assert all(one.equal(other) for one, other in zip(made, progress.images[name][i][0], strict=True))


def test_the_control_group_is_its_own_measure(whole):
    control = whole[1][whole[1]["condition"] == "clean_again"]
    assert control["grad_cosine"].tolist() == pytest.approx([1.0, 1.0])
    alone = control["grad_cosine_alone"].dropna()
    assert len(alone) > 0
    assert (alone < 0.999).all()


def test_a_step_of_zero_is_the_second_clean_draw_in_every_figure(policy, problems):
    rows, gradients = ran(policy, problems, step_sizes=(0.0,), conditions=("egas", "noise"), chunk=4)
    for frame, unit in ((rows, "problem_id"), (gradients, "chunk")):
        control = frame[frame["condition"] == "clean_again"].set_index(unit)
        for name in ("egas", "noise"):
            own = frame[frame["condition"] == name].set_index(unit)
            for metric in metrics(list(frame.columns)):
                torch.testing.assert_close(
                    torch.tensor(own[metric].to_numpy()), torch.tensor(control[metric].to_numpy()), equal_nan=True
                )


def test_gradients_are_measured_for_the_first_problems_only(policy, problems):
    rows, gradients = ran(policy, problems, gradient_problems=2, conditions=("noise_500",))
    assert gradients[["condition", "chunk"]].to_numpy().tolist() == [["clean_again", 0], ["noise_500", 0]]
    assert len(rows) == 3 * 4


def test_how_many_problems_are_handled_at_a_time_changes_nothing(policy, problems, whole):
    rows, _ = ran(policy, problems, chunk=3, gradient_problems=0, conditions=("random_sign", "noise"))
    before = whole[0][whole[0]["condition"].isin(rows["condition"])]
    keys = ["condition", "problem_id"]
    columns = ["accuracy", "reward", "tokens", "entropy_fresh", "entropy_kept", "l2"]
    one, other = (frame.set_index(keys)[columns].sort_index() for frame in (rows, before))
    pd.testing.assert_frame_equal(one, other, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def sampled(policy, problems) -> GroupsInProgress:
    """Two problems with four clean completions each, rewards set by hand."""
    config = ProbeConfig(**SMALL).base()
    progress = GroupsInProgress.begin(policy, problems[:2])
    progress.images["clean"] = [[prompt.images] for prompt in progress.prompts]
    sample_view(policy, progress, "clean", 4, config, STREAM)
    rewards = [[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.5, 1.0]]
    for rollouts, values in zip(progress.rollouts, rewards, strict=True):
        progress.rewards |= {rollout.key: value for rollout, value in zip(rollouts, values, strict=True)}
    return progress


def weighted_log_probs(policy, progress: GroupsInProgress, weights: list[list[float]], tokens: int) -> list:
    """Gradient of -sum(weight * log-prob of the completion) / tokens, each completion scored alone."""
    loss = torch.zeros(())
    for prompt, rollouts, group in zip(progress.prompts, progress.rollouts, weights, strict=True):
        for rollout, weight in zip(rollouts, group, strict=True):
            request = ScoreRequest(prompt=prompt, images=prompt.images, completions=(rollout.token_ids,))
            ((score,),) = policy.score([request], temperature=1.5, pack_tokens=6144)
            loss = loss - weight * score.logprobs.sum() / tokens
    return list(torch.autograd.grad(loss, list(policy.model.parameters()), allow_unused=True))


def test_the_gradient_is_that_of_advantage_times_log_prob(policy, sampled):
    config = ProbeConfig(**SMALL).base()
    # (x - mean) / (std + 1e-6) of (1, 0, 0, 0), and of (.5, .5, .5, 1): the same but for the order
    lone, rest = 0.75 / (0.5 + 1e-6), -0.25 / (0.5 + 1e-6)
    one, two = 0.375 / (0.25 + 1e-6), -0.125 / (0.25 + 1e-6)
    tokens = sum(len(rollout.token_ids) for rollouts in sampled.rollouts for rollout in rollouts)
    expected = weighted_log_probs(policy, sampled, [[lone, rest, rest, rest], [two, two, two, one]], tokens)
    figures, control = gradient_figures(policy, sampled, None, config)
    assert cosine(control.sums[0], expected) == pytest.approx(1.0, abs=1e-5)
    assert figures["grad_norm"] == pytest.approx(norm(expected), rel=1e-4)
    # the first two of each group: (1, 0), and (.5, .5) without signal
    half = 0.5 / (math.sqrt(0.5) + 1e-6)
    tokens = sum(len(rollout.token_ids) for rollouts in sampled.rollouts for rollout in rollouts[:2])
    expected = weighted_log_probs(policy, sampled, [[half, -half, 0, 0], [0, 0, 0, 0]], tokens)
    assert cosine(control.first, expected) == pytest.approx(1.0, abs=1e-5)
    assert norm(control.first) == pytest.approx(norm(expected), rel=1e-4)


def test_a_gradient_by_way_of_the_control_is_the_one_computed_directly(policy, sampled):
    config = ProbeConfig(**SMALL).base()
    _, control = gradient_figures(policy, sampled, None, config)
    pairs = zip(sampled.rollouts, reversed(sampled.rollouts), strict=True)
    other = replace(sampled, rollouts=[[*rollouts[1:], others[0]] for rollouts, others in pairs])
    changed, _ = gradient_figures(policy, other, control, config)
    direct, own = gradient_figures(policy, other, None, config)
    assert changed["grad_norm"] == pytest.approx(direct["grad_norm"], rel=1e-4)
    assert changed["grad_norm_alone"] == pytest.approx(direct["grad_norm_alone"], rel=1e-4)
    assert changed["grad_cosine"] == pytest.approx(cosine(own.sums[0], control.sums[0]), abs=1e-4)
    assert changed["grad_cosine_alone"] == pytest.approx(cosine(own.sums[1], control.first), abs=1e-4)


def test_equal_rewards_have_no_gradient_and_nothing_is_left_on_the_policy(policy, sampled):
    config = ProbeConfig(**SMALL).base()
    equal = replace(sampled, rewards=dict.fromkeys(sampled.rewards, 0.5))
    figures, control = gradient_figures(policy, equal, None, config)
    assert figures["grad_norm"] == 0
    assert math.isnan(figures["grad_cosine"])
    gradient_figures(policy, sampled, control, config)
    assert all(parameter.grad is None for parameter in policy.model.parameters())


def test_a_gradient_has_no_part_in_parameters_that_it_lacks():
    one = [torch.tensor([3.0, 4.0]), None]
    other = [torch.tensor([1.0, 0.0]), torch.tensor([5.0])]
    assert norm(one) == 5.0
    assert dot(one, other) == 3.0


def test_tables_fit_the_terminal_and_the_figure_is_a_picture(whole):
    rows, gradients = (frame.to_dict("records") for frame in whole)
    found = differences(rows, 2.0, "problem_id") + differences(gradients, 2.0, "chunk")
    shown = io.StringIO()
    console = Console(width=WIDTH, file=shown)
    console.print(level_table(rows, gradients, 2.0))
    (table,) = difference_tables(found, 2.0)
    console.print(table)
    lines = shown.getvalue().splitlines()
    assert max(len(line) for line in lines) <= WIDTH
    assert "…" not in shown.getvalue()
    # the heading and every metric on one line: nothing was wrapped
    for name in CONDITIONS.keys() - {"descend"}:
        assert any(name in line for line in lines), name
    for label in metrics([*whole[0].columns, *whole[1].columns]).values():
        assert any(label in line for line in lines), label
    assert figure(found, "title").startswith(b"\x89PNG")


def test_the_command_leaves_tables_figure_and_settings(tmp_path, capsys):
    arguments = ["--problems", "2", "--chunk", "1", "--completions", "2", "--step-sizes", "2", "4"]
    arguments += ["--conditions", "egas", "--data.train-size", "64", "--out", str(tmp_path / "probe")]
    assert probe.main(arguments) == 0
    names = {path.name for path in (tmp_path / "probe").iterdir()}
    assert names == {"problems.parquet", "gradients.parquet", "differences.parquet", "probe.png", "settings.json"}
    rows = pd.read_parquet(tmp_path / "probe" / "problems.parquet")
    # 2 problems: clean, clean_again, and EgAS at two steps
    assert len(rows) == 2 * 4
    printed = capsys.readouterr().out
    assert "step 2/255" in printed
    assert "step 4/255" in printed


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"conditions": ("egsa",)}, "conditions are of clean_again, egas"),
        ({"completions": 1}, "completions must be at least 2"),
        ({"view": ViewConfig(direction="descend")}, "view.direction has no effect in a probe"),
        ({"step_sizes": (0.01,)}, "step_sizes"),
    ],
)
def test_settings_that_cannot_work_are_refused(changed, said):
    with pytest.raises(ValueError, match=said):
        ProbeConfig(**changed)
