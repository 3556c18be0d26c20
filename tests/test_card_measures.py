"""What the card measures: runs are pairs where they answered the same problems at the same steps, and only then."""

from types import SimpleNamespace

import pytest

from analysis.card_measures import entropy_over_training
from analysis.card_tolerance import at_our_scale, of_run
from analysis.load import load_sweep
from tests.fake_results import write_sweep


def test_runs_validated_on_different_problems_have_different_item_sets(tmp_path, monkeypatch):
    data = load_sweep(write_sweep(tmp_path, seeds=1, steps=20, problems=4).parent)
    sets = entropy_over_training(data).set_index("arm")["item_set"]
    assert sets.nunique() == 1
    rows = data.table("problems").copy(deep=True)
    rows["problem_id"] = rows["problem_id"].astype(str)
    rows.loc[rows["arm"] == "SaEI", "problem_id"] += " of another set"
    monkeypatch.setattr(data, "table", lambda name: rows)
    sets = entropy_over_training(data).set_index("arm")["item_set"]
    assert sets["GRPO"] == sets["random third"] != sets["SaEI"]


@pytest.mark.parametrize("reference", [-0.02, 0.02])
def test_a_change_under_attack_is_no_share_of_items(reference):
    row = SimpleNamespace(
        unit="points", measure="change_under_attack", items=100, pairs=3, reference=reference, low=-0.01, high=0.03
    )
    assert at_our_scale([row]) == "3 paired seeds ±2.0 points"
    row.measure, row.reference = "test_accuracy", 0.5
    # 1.96 sqrt(0.5 * 0.5 / 100) = 9.8 points
    assert 100 * of_run(0.5, 100) == pytest.approx(9.8, abs=0.005)
    assert at_our_scale([row]) == "100 items: one run ±9.8 points, 3 paired seeds ±2.0 points"
