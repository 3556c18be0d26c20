"""A report on a part of a sweep says what that does to its words, and how to make the same page again."""

import itertools
import shlex

import pandas as pd

from analysis import card_evidence, contrasts, load, repeat
from analysis.chosen import ADJUSTED
from analysis.where import parse_selection, parse_since
from saei import schema
from tests.fake_results import write_sweep


def part(results, *where, **options):
    selection = parse_selection(where=where, now=0.0)
    return load.load_sweep(write_sweep(results, steps=4, problems=2, **options).parent, selection=selection)


def test_a_selection_that_leaves_trials_out_says_that_its_verdicts_are_its_own(tmp_path):
    assert part(tmp_path, "arm != random third").selection_note.endswith(ADJUSTED)
    assert ADJUSTED not in part(tmp_path, "seed >= 0").selection_note


def test_an_arm_that_a_selection_leaves_out_is_not_called_unlaunched(tmp_path):
    data = part(tmp_path, "arm in [saei, random]", arms={"grpo": 0.1, "saei": 0.2, "random": 0.1})
    told = contrasts.not_launched(data)
    assert told == (
        "The primary contrast, saei minus grpo, is not part of this selection: it has no trial of grpo. "
        "Without the baseline grpo in this selection, no arm is compared with it."
    )


def test_the_card_does_not_call_an_arm_unlaunched_that_a_selection_leaves_out(tmp_path):
    data = part(tmp_path, "arm == saei", name="components", arms={"grpo": 0.1, "saei": 0.2})
    assert card_evidence.evidence([data], ["C3"]).iloc[0]["why"] == "no trial of grpo is selected"


def test_the_command_of_a_page_about_a_selection_has_the_selection(tmp_path):
    selection = parse_selection(where=["arm in [GRPO, SaEI]", "seed == 0"], since="1970-01-02T00:00:00.5", now=0.0)
    data = load.load_sweep(write_sweep(tmp_path, steps=4, problems=2).parent, selection=selection)
    words = shlex.split(repeat.report(data))
    where = [word for option, word in itertools.pairwise(words) if option == "--where"]
    since = words[words.index("--since") + 1]
    again = parse_selection(since=since, where=where, now=1e9)
    assert again == selection and parse_since(since, 1e9) == selection.since
    assert "--where" not in repeat.report(load.load_sweep(tmp_path))


def test_trials_of_a_folder_inside_another_are_not_called_taken_from_elsewhere(tmp_path):
    write_sweep(tmp_path / "reference", seeds=1, steps=4, problems=2)
    write_sweep(tmp_path, seeds=2, steps=4, problems=2, leave_out=[("GRPO", 0), ("SaEI", 0), ("random third", 0)])
    data = load.load_sweep([tmp_path, tmp_path / "reference"], "fake")
    assert (data.state(schema.FINISHED)["seed"].nunique(), set(data.trials["same_as"])) == (2, {""})


def test_a_foreign_file_among_the_strips_is_none_of_them(tmp_path):
    data = load.load_sweep(write_sweep(tmp_path, seeds=1, steps=4, problems=2).parent)
    images = data.trials["folder"][0] / schema.IMAGES_FOLDER
    images.mkdir(exist_ok=True)
    before = len(data.strips())
    (images / "step-one-egas-p1.png").write_bytes(b"")
    (images / "step-000003-egas-a%2Fb-c.png").write_bytes(b"")
    found = data.strips()
    assert len(found) == before + 1
    own = found[found["problem_id"] == "a/b-c"]
    assert own[["step", "view"]].to_numpy().tolist() == [[3, "egas"]]
    assert pd.api.types.is_integer_dtype(found["step"])
