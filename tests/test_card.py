"""The reproduction card: which words a claim gets, by what, and the errors that sampling alone makes."""

import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest
from statsmodels.stats.power import TTestPower

from analysis import card, card_evidence, card_figure, card_page, card_recipe, card_tolerance, card_words, claims
from analysis.card_measures import COLLAPSED_SHARE, LACKING, MEASURES, change_under_attack, entropy_at_end
from analysis.card_sources import SOURCES
from analysis.load import load_sweep
from analysis.style import Sentence
from saei import detectors, schema
from sweeps.definition import load_sweep as definition
from tests.fake_results import write_sweep

IDS = ["C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8", "V1", "V2", "Q1", "Q2", "Q3", "Q4", "N1", "N2", "N3"]
STEPS = 4
"""Short, to be quick; the card says so in its brackets."""
LEVEL = [48, 50, 47, 52]
"""Of 96 sampled completions (12 problems x 8), how many are right, by seed: the baseline's."""
THREE = LEVEL[:3]


def sweep_of(tmp_path, name, right, *, steps=STEPS, **more):
    """A sweep of which the test accuracies are given: arm -> right completions by seed; the first is the baseline."""
    seeds = len(next(iter(right.values())))
    write_sweep(tmp_path, name, arms=dict.fromkeys(right, 0.1), seeds=seeds, steps=steps, right=right, **more)
    return load_sweep(tmp_path, name)


def shifted(by):
    """LEVEL with these many more right, by seed."""
    return [level + more for level, more in zip(LEVEL, by, strict=False)]


def verdict_of(claim, *sweeps):
    return card.card(sweeps, card_evidence.evidence(sweeps, [claim])).set_index("id").loc[claim, "verdict"]


def row_of(claim, *sweeps):
    return card_evidence.evidence(sweeps, [claim]).iloc[0]


def writable(data, monkeypatch):
    """The rows of the sweep's completions, to be changed before they are measured in place of problems."""
    rows = data.table("eval").copy(deep=True)
    monkeypatch.setattr(data, "table", lambda name: rows, raising=False)
    return rows


def test_every_claim_has_one_row_and_its_sources():
    assert [claim.id for claim in claims.CLAIMS] == IDS
    assert list(SOURCES) == IDS
    assert list(card.card([])["id"]) == IDS


def test_the_arms_of_every_source_exist_in_its_sweep():
    for parts in SOURCES.values():
        for panel in (panel for part in parts for panel in part):
            arms = set(definition(panel.sweep).arms)
            for contrast in panel.contrasts:
                assert {*contrast.arms, *contrast.against} <= arms, (panel.sweep, contrast.label)
            assert panel.measure in MEASURES and panel.measure in LACKING


def test_marks_shared_with_detectors_and_report_are_the_same():
    assert COLLAPSED_SHARE == detectors.COLLAPSED_SHARE
    sources = "".join(path.read_text() for path in Path(card.__file__).parent.glob("*.py"))
    assert re.findall(r"^EVIDENCE_STEPS, EVIDENCE_SEEDS = (\d+)", sources, re.MULTILINE) == [str(card.EVIDENCE_STEPS)]


def test_a_claim_is_supported_where_all_seeds_gain(tmp_path):
    # +12, +10, +11, +11 of 96 completions: mean 11/96 = 11.5 points
    data = sweep_of(tmp_path, "components", {"grpo": LEVEL, "saei": shifted([12, 10, 11, 11])})
    row = row_of("C3", data)
    assert row["difference"] == pytest.approx(11 / 96)
    assert row["sweep_verdict"] == "better"
    assert verdict_of("C3", data).startswith("supported")


def test_a_claim_is_contradicted_where_all_seeds_lose(tmp_path):
    data = sweep_of(tmp_path, "components", {"grpo": LEVEL, "saei": shifted([-12, -10, -11, -11])})
    assert verdict_of("C3", data).startswith("contradicted")


def test_a_claimed_loss_is_supported_by_a_loss(tmp_path):
    right = {"all_tokens": LEVEL, "entropy_response": shifted([-12, -10, -11, -11])}
    assert verdict_of("V1", sweep_of(tmp_path, "selection", right)).startswith("supported")


def test_an_open_difference_tells_what_the_budget_could_have_seen(tmp_path):
    # differences +4, -4, +3, -3 of 96: sd sqrt(50/3)/96 = 4.25 points; at 4 seeds 80 % power needs 2.0 sd: 8.7 points
    data = sweep_of(tmp_path, "components", {"grpo": LEVEL, "saei": shifted([4, -4, 3, -3])})
    said = verdict_of("C3", data)
    sd = math.sqrt(50 / 3) / 96
    assert row_of("C3", data)["sd"] == pytest.approx(sd)
    assert said.startswith("not distinguishable: smallest difference detectable ")
    assert "the paper's are 2.0 and 2.2: this budget could not have seen them" in said


def test_a_narrow_budget_could_have_seen_the_papers_gain(tmp_path):
    # the same on 3,000 problems less noise would do; here the differences are +1, -1, 0, 0 of 960: 0.1 points each
    right = {"grpo": [480, 480, 480, 480], "saei": [481, 479, 480, 480]}
    data = sweep_of(tmp_path, "components", right, problems=120)
    assert "this budget could have seen them" in verdict_of("C3", data)


def test_two_seeds_cannot_speak(tmp_path):
    data = sweep_of(tmp_path, "components", {"grpo": LEVEL[:2], "saei": [60, 62]})
    assert verdict_of("C3", data) == "cannot speak: components: 2 paired seeds, and three are needed"


def test_a_sweep_that_was_not_run_is_named():
    said = card.card([]).set_index("id")["verdict"]
    assert said["C3"] == "cannot speak: the sweep components is not among these results"
    absent = [f"the sweep {sweep} is not among these results" for sweep in ("step_size", "pgd_iterations")]
    assert said["C6"] == f"cannot speak: {'; '.join(absent)}"
    assert said["N3"] == "cannot speak: the sweep robustness is not among these results"


def test_a_missing_arm_and_a_missing_evaluation_are_named(tmp_path):
    data = sweep_of(tmp_path, "methods", {"grpo": LEVEL, "saei": LEVEL, "noisyrollout": LEVEL})
    assert "launched without kl_cov" in verdict_of("C8", data)
    transfer = sweep_of(tmp_path, "transfer", {"grpo": LEVEL, "saei": LEVEL})
    assert verdict_of("N2", transfer) == f"cannot speak: transfer: {LACKING['transfer_accuracy']}"


def test_arms_that_drop_groups_are_no_pair(tmp_path):
    data = sweep_of(tmp_path, "components", {"grpo": LEVEL, "saei": shifted([12, 10, 11, 11])}, filters=["saei"])
    assert verdict_of("C3", data) == ("cannot speak: components: saei drops groups, so a step is no fair measure")


def test_one_contrast_against_it_contradicts_a_claim_of_several(tmp_path):
    right = {
        "grpo": THREE,
        "middle_1_3": shifted([11, 12, 10]),
        "low_third": THREE,
        "high_third": THREE,
        "random_third": shifted([30, 32, 31]),
        "no_tsec": THREE,
    }
    said = verdict_of("C5", sweep_of(tmp_path, "tsec_ratio", right))
    assert said.startswith("contradicted: middle third − random third")


def test_a_claim_of_several_is_supported_by_all_and_in_part_by_some(tmp_path):
    right = {
        "grpo": THREE,
        "middle_1_3": shifted([11, 12, 10]),
        **dict.fromkeys(("low_third", "high_third", "random_third", "no_tsec"), THREE),
    }
    assert verdict_of("C5", sweep_of(tmp_path, "tsec_ratio", right)).startswith("supported [said of")
    right["no_tsec"] = shifted([11, 9, 13])
    said = verdict_of("C5", sweep_of(tmp_path, "tsec_ratio", right))
    assert said.startswith("supported in part (holds: middle third − low third")
    assert "open: middle third − all" in said


def test_a_part_without_a_sweep_leaves_support_in_part(tmp_path):
    # steps 2 and 3 together gain 11 of 96 on both ends; T = 1 against T = 3 was not tried
    peak = shifted([11, 12, 10])
    right = {"grpo": THREE, "step_0": THREE, "step_2": peak, "step_3": peak, "step_8": THREE}
    said = verdict_of("C6", sweep_of(tmp_path, "step_size", right))
    assert said.startswith(
        "supported in part (holds: steps 2 and 3 − step 0, steps 2 and 3 − step 8); cannot speak on T = 1"
    )


def test_several_arms_are_averaged_seed_by_seed(tmp_path):
    # step 2 gains 8, step 3 gains 12 of 96: together 10
    right = {
        "grpo": THREE,
        "step_0": THREE,
        "step_2": shifted([8, 8, 8]),
        "step_3": shifted([12, 12, 12]),
        "step_8": THREE,
    }
    assert row_of("C6", sweep_of(tmp_path, "step_size", right))["difference"] == pytest.approx(10 / 96)


def test_a_question_is_answered_better_or_worse(tmp_path):
    data = sweep_of(tmp_path, "text_attack", {"grpo": LEVEL, "text_0": LEVEL, "text_10": shifted([12, 10, 11, 11])})
    assert verdict_of("Q2", data).startswith("better [")
    worse = sweep_of(
        tmp_path / "b", "text_attack", {"grpo": LEVEL, "text_0": LEVEL, "text_10": shifted([-9, -8, -9, -9])}
    )
    assert verdict_of("Q2", worse).startswith("worse [")


def test_the_sweep_with_most_seeds_speaks_whatever_it_found(tmp_path):
    # the smaller sweep stands first in the list and has the larger gain
    few = sweep_of(tmp_path, "components", {"grpo": LEVEL[:3], "saei": [90, 91, 92]})
    many = sweep_of(tmp_path, "tsec_ratio", {"grpo": LEVEL, "middle_1_3": LEVEL})
    for order in ((few, many), (many, few)):
        assert row_of("C3", *order)["sweep"] == "tsec_ratio"


def test_among_equals_the_first_listed_speaks(tmp_path):
    one = sweep_of(tmp_path, "methods", {"grpo": LEVEL, "saei": shifted([12, 10, 11, 11])})
    other = sweep_of(tmp_path, "components", {"grpo": LEVEL, "saei": LEVEL})
    assert row_of("C3", one, other)["sweep"] == "components"


def test_a_stand_in_speaks_only_without_the_claims_own_contrast(tmp_path):
    stand_in = sweep_of(tmp_path, "methods", {"grpo": LEVEL, "top_entropy": shifted([-12, -10, -11, -11])})
    assert "stands in for the claim's own contrast: 80/20" in verdict_of("V1", stand_in)
    own = sweep_of(tmp_path, "selection", {"all_tokens": LEVEL[:3], "entropy_response": LEVEL[:3]})
    assert row_of("V1", stand_in, own)["sweep"] == "selection"


def test_p_values_are_the_sweeps_own_or_adjusted_within_the_claim(tmp_path):
    right = {
        "grpo": LEVEL,
        "saei": shifted([6, 3, 5, 4]),
        "kl_cov": shifted([1, -2, 2, 0]),
        "noisyrollout": shifted([2, 2, 1, -1]),
    }
    data = sweep_of(tmp_path, "methods", right)
    found = card_evidence.evidence([data]).set_index("contrast")
    # C3: SaEI − GRPO is the sweep's primary contrast and stands unadjusted
    assert found.loc["SaEI − GRPO", "p_judged"] == found.loc["SaEI − GRPO", "p"]
    # C8: two contrasts that the sweep does not make; Holm doubles the smaller p value
    smaller, larger = sorted(
        (found.loc[name] for name in ("SaEI − KL-Cov", "SaEI − NoisyRollout")), key=lambda row: row["p"]
    )
    assert smaller["p_judged"] == pytest.approx(min(1, 2 * smaller["p"]))
    assert larger["p_judged"] == pytest.approx(max(larger["p"], 2 * smaller["p"]))


def test_runs_that_diverged_in_half_of_the_seeds_say_nothing(tmp_path):
    explosion = [
        {"step": 5, "detector": "entropy_explosion", "sentence": "step 5: it rose", "setting": "view.step_size"}
    ]
    data = sweep_of(
        tmp_path,
        "components",
        {"grpo": LEVEL, "saei": shifted([12, 10, 11, 11])},
        alarms={("saei", 0): explosion, ("saei", 1): explosion},
    )
    assert verdict_of("C3", data) == "cannot speak: components: saei diverged in 2 of 4"


def test_collapse_needs_the_fall_and_the_mark(tmp_path):
    # entropy is 0.2 - 0.1 * accuracy level throughout: 0.2 - 0.04 = 0.16 at the start, 0.2 - 0.05 = 0.15 at the end
    data = sweep_of(tmp_path, "collapse", {"grpo": LEVEL, "saei": LEVEL})
    falls, mark = (row for _, row in card_evidence.evidence([data]).query("id == 'C1'").iterrows())
    assert falls["difference"] == pytest.approx(-0.01)
    assert mark["difference"] == pytest.approx(0.15 - 0.3 * 0.16)
    said = verdict_of("C1", data)
    assert said.startswith("supported in part (holds: fall (end − start); does not: collapse (end − 30 % of start))")


def test_entropy_at_the_end_is_weighted_by_tokens(tmp_path, monkeypatch):
    data = sweep_of(tmp_path, "collapse", {"grpo": LEVEL})
    rows = writable(data, monkeypatch)
    first = rows.index[(rows["split"] == "validation") & (rows["step"] == STEPS) & (rows["decoding"] == schema.SAMPLED)]
    own = first[rows.loc[first, "seed"] == 0]
    rows.loc[own, ["entropy", "tokens"]] = [0.1, 10]
    rows.loc[own[0], ["entropy", "tokens"]] = [1.0, 10 * (len(own) - 1)]
    # half of all tokens are those of one completion: (0.1 + 1.0) / 2
    ends = entropy_at_end(data).set_index("seed")["value"]
    assert ends[0] == pytest.approx(0.55)


def test_change_under_attack_is_against_the_same_problems_without(tmp_path, monkeypatch):
    data = sweep_of(tmp_path, "robustness", {"grpo": LEVEL, "saei": LEVEL}, attacked=True)
    items = writable(data, monkeypatch)
    items["accuracy"] = items["split"].map({"test@egas:2": 0.5, "test@egas:8": 0.1, "test@gaussian:2": 0.7}).fillna(0.8)
    # egas: mean of 0.5 and 0.1 minus 0.8 = -0.5; gaussian: mean of 0.7 and 0.8 minus 0.8 = -0.05; their mean -0.275
    assert change_under_attack(data)["value"].tolist() == pytest.approx([-0.275] * 8)
    monkeypatch.undo()
    assert row_of("N3", data)["pairs"] == 4


def test_short_runs_exploratory_ones_and_toy_scale_are_said(tmp_path):
    data = sweep_of(tmp_path, "components", {"grpo": LEVEL, "saei": shifted([12, 10, 11, 11])}, steps=20)
    data.trials["exploratory"] = True
    data.configs.clear()
    for trial in data.trials.itertuples():
        path = trial.folder / schema.CONFIG_FILE
        tree = json.loads(path.read_text())
        tree["config"]["model"] = {"path": "tiny"}
        path.write_text(json.dumps(tree))
    row = card.card([data]).set_index("id").loc["C3"]
    assert row["verdict"] == (
        "supported [said of the tiny model and digits only; 20 steps show the machinery, not evidence; exploratory]"
    )
    assert row["what ours leaves open"].startswith("On the tiny model and digits: ")
    assert "model: tiny (2M parameters), not Qwen2.5-VL-7B-Instruct" in row["differences in recipe"]


def test_a_sweep_that_is_still_running_says_how_many_seeds_are_in(tmp_path):
    right = {"grpo": LEVEL, "saei": shifted([12, 10, 11, 11])}
    data = sweep_of(tmp_path, "components", right, unfinished={("saei", 1): schema.RUNNING})
    assert verdict_of("C3", data).endswith("; 3 of 4 planned seeds are in]")


def test_the_papers_own_recipe_differs_in_nothing():
    config: dict = {"steps": 60}
    for one in card_recipe.RECIPES[claims.SAEI]:
        group, _, name = one.path.rpartition(".")
        (config.setdefault(group, {}) if group else config)[name] = one.same[0]
    assert card_recipe.differences(config, claims.SAEI).empty
    assert card_recipe.scale(config) == ""
    config["view"]["step_size"] = 8.0
    assert card_recipe.differences(config, claims.SAEI)[["setting", "paper", "ours"]].values.tolist() == [
        ["step (grey levels)", "2 or 3", "8"]
    ]


def test_every_setting_that_the_recipes_name_is_a_setting():
    from saei.config import field_names

    named = {one.path for recipe in card_recipe.RECIPES.values() for one in recipe}
    named |= {one.path for one in card_recipe.OPEN if one.path}
    assert named <= set(field_names())


def test_one_run_on_geometry3k_is_known_to_four_points():
    # 1.95996 * sqrt(0.5618 * 0.4382 / 601) = 1.95996 * 0.020239 = 0.03967
    assert card_tolerance.of_run(0.5618, 601) == pytest.approx(0.03967, abs=5e-6)
    # with 0.5402 * 0.4598 / 601 beside it: 1.95996 * sqrt(0.00040962 + 0.00041329) = 0.05622
    assert card_tolerance.of_difference(0.5618, 0.5402, 601) == pytest.approx(0.05622, abs=5e-6)
    # 1.95996 * sqrt(0.6445 * 0.3555 / 2000) = 0.02098
    assert card_tolerance.of_run(0.6445, 2000) == pytest.approx(0.02098, abs=5e-6)


def test_an_average_of_equal_benchmarks_is_known_better_by_the_root_of_their_number():
    one = claims.Printed(benchmark="a", items=100, score=0.5, reference=0.5)
    # four of them: half of the 1.95996 * sqrt(2 * 0.25 / 100) of one
    assert card_tolerance.of_average([one] * 4) == pytest.approx(1.95996 * math.sqrt(0.005) / 2, abs=1e-6)
    unknown = claims.Printed(benchmark="b", items=None, score=0.5, reference=0.5)
    assert math.isnan(card_tolerance.of_average([one, unknown]))


def test_the_printed_gains_are_those_of_the_tables():
    effects = card_tolerance.printed_effects()
    assert [gain for _, gain, _ in effects["C3"]] == pytest.approx([0.0216, 0.0200])
    for claim, gain in (("V1", -0.0057), ("V2", 0.0228)):
        row = next(one for one in claims.CLAIMS if one.id == claim)
        average = sum(one.score - one.reference for one in row.printed) / 7
        # the paper takes the difference of two rounded averages: 58.82 - 56.54
        assert average == pytest.approx(gain, abs=1e-4)
        assert effects[claim][0][1] == gain


def test_the_baseline_has_five_readings_and_ours_beside_them(tmp_path):
    data = sweep_of(tmp_path, "components", {"grpo": LEVEL, "saei": LEVEL})
    table = card_tolerance.readings(card_evidence.evidence([data]))
    assert table["accuracy (%)"].tolist()[:5] == ["48.0", "49.42", "51.4", "52.0", "54.02"]
    # (48 + 50 + 47 + 52) / 4 / 96
    assert table["accuracy (%)"].tolist()[5] == f"{100 * 197 / 384:.1f}"
    # 54.02 - 48; the sd of the five about their mean 50.968 is 2.33; sqrt(0.50968 * 0.49032 / 601) = 2.04 points
    assert "span 6.0 points (sd 2.3)" in card_tolerance.spread_of_readings()
    assert "an sd of 2.0" in card_tolerance.spread_of_readings()


def test_nothing_one_sweep_and_partial_results_are_drawn_or_told(tmp_path):
    assert isinstance(card_figure.forest(card_evidence.evidence([])), Sentence)
    assert isinstance(card.shown(card.card([]), card.VERDICTS), Sentence)
    partial = sweep_of(
        tmp_path,
        "components",
        {"grpo": LEVEL, "saei": LEVEL},
        leave_out=[("saei", 3)],
        unfinished={("grpo", 2): schema.RUNNING},
    )
    found = card_evidence.evidence([partial])
    assert row_of("C3", partial)["pairs"] == 2
    figure = card_figure.forest(found)
    assert not isinstance(figure, Sentence)
    labels = [text.get_text() for axes in figure.axes for text in axes.get_yticklabels()]
    assert "C3  SaEI − GRPO" in labels and "V2  VEPO − top fifth by entropy" in labels


def test_two_sweeps_of_one_name_are_told_apart(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    one = sweep_of(tmp_path / "here", "components", {"grpo": LEVEL, "saei": LEVEL})
    other = sweep_of(tmp_path / "there", "components", {"grpo": LEVEL, "saei": LEVEL})
    assert card_evidence.labels([one, other]) == ["components in here", "components in there"]


def test_a_sweep_that_cannot_be_read_is_left_out_with_a_sentence(tmp_path):
    sweep_of(tmp_path, "components", {"grpo": LEVEL, "saei": LEVEL})
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / schema.PLAN_FILE).write_text("{")
    sweeps, sentences = card.gather([tmp_path])
    assert [data.name for data in sweeps] == ["components"]
    assert len(sentences) == 1 and sentences[0].startswith("broken is left out: ")
    with pytest.raises(ValueError, match="nothing_of_that_name"):
        card.gather([tmp_path], "nothing_of_that_name")


def test_the_command_writes_a_page_on_which_names_stay_text(tmp_path, capsys):
    data = sweep_of(tmp_path, "components", {"grpo": LEVEL, "saei": shifted([12, 10, 11, 11])})
    config = data.trials.iloc[-1]["folder"] / schema.CONFIG_FILE
    for folder in data.trials["folder"]:
        config = folder / schema.CONFIG_FILE
        tree = json.loads(config.read_text())
        tree["config"]["model"] = {"path": "<script>alert(1)</script> [red]$x$"}
        config.write_text(json.dumps(tree))
    assert card.main(["--results", str(tmp_path)]) == 0
    page = (tmp_path / "card.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert all(f'id="{claim}"' in page for claim in IDS)
    assert "2 of 17 rows" not in page and "card.html" in capsys.readouterr().out
    assert card_page.in_terminal(pd.DataFrame([dict.fromkeys(card.COLUMNS, "[red]x")])).row_count == 1


def test_a_folder_that_is_not_there_is_an_error_in_a_sentence(tmp_path, capsys):
    assert card.main(["--results", str(tmp_path / "absent")]) == 2
    assert "--results" in capsys.readouterr().err


def test_words_for_amounts():
    assert card_words.amount(-0.0216, "points") == "−2.2"
    assert card_words.amount(0.0124, "nats") == "+0.012"
    assert card_words.amount(math.nan, "nats") == "–"


def test_what_a_family_could_detect_reckons_with_its_size(tmp_path):
    # both differences are +1, -1, 1, -1 of 96: sd sqrt(4/3)/96; two contrasts: each at 2.5 %
    right = {"grpo": LEVEL, "saei": shifted([1, -1, 1, -1]), "kl_cov": LEVEL, "noisyrollout": LEVEL}
    row = row_of("C8", sweep_of(tmp_path, "methods", right))
    needed = TTestPower().solve_power(nobs=4, alpha=0.025, power=0.8)
    assert row["mde"] == pytest.approx(needed * math.sqrt(4 / 3) / 96, rel=1e-4)


def test_tables_have_no_line_breaks_in_their_cells(tmp_path):
    right = {"grpo": LEVEL, **dict.fromkeys(("saei", "kl_cov", "noisyrollout"), LEVEL)}
    frame = card.card([sweep_of(tmp_path, "methods", right)])
    assert "\n" in frame.set_index("id").loc["C8", "ours"]
    shown = card.shown(frame, card.VERDICTS)
    assert "\\n" not in shown._repr_html_() and "SaEI − KL-Cov: +0.0 points" in shown._repr_html_()
