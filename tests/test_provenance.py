"""A report over several commits says so, and `--same-code` refuses it; arms that a search gave up get no verdict."""

import json

import pytest

from analysis import arms, contrasts, load, page, provenance, report, tables
from saei import schema
from tests.fake_results import fake_id, write_sweep


def ran(folder, arm, seed, **facts):
    """Change what `environment.json` says of a trial."""
    path = folder / fake_id(arm, seed) / schema.ENVIRONMENT_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


@pytest.fixture
def folder(tmp_path):
    return write_sweep(tmp_path, seeds=2, steps=4, problems=2, samples=2, text="")


def test_a_sweep_of_one_commit_says_nothing_and_passes(folder):
    data = load.load_sweep(folder.parent)
    assert provenance.mixed(data) == []
    provenance.require_same_code(data)
    assert dict(provenance.provenance(data, 4))["code"] == "0123456789ab (6 trials)"


def test_commits_changes_and_continued_trials_are_told_apart(folder):
    diff = {"git_sha": "0123456789abcdef", "git_dirty": True}
    ran(folder, "SaEI", 0, **diff, git_diff="-a\n+b")
    ran(folder, "SaEI", 1, **diff, git_diff="-a\n+c")
    ran(folder, "GRPO", 1, **diff, git_diff="", git_untracked=["notes.txt"])  # no code: the commit as it is
    ran(folder, "random third", 0, git_sha="fedcba9876543210", earlier=[{"git_sha": "0123456789abcdef"}])
    data = load.load_sweep(folder.parent)
    found = provenance.codes(data).set_index("code")
    first, second = (code for code in found.index if code.startswith("0123456789ab with changes "))
    assert first != second
    # five launches of six trials by the plain commit: GRPO twice, random third twice, one of them continued later
    assert found["trials"].to_dict() == {"0123456789ab": 4, first: 1, second: 1, "fedcba987654": 1}
    versions, continued = provenance.mixed(data)
    assert versions.startswith("The trials ran 4 versions of the code: 0123456789ab: 4 trials of GRPO, random third;")
    changed = fake_id("random third", 0)
    assert continued == f"1 of them changed code while they ran: {changed} (0123456789ab then fedcba987654)."
    with pytest.raises(ValueError, match="--same-code: the trials of fake ran 4 versions of the code") as refused:
        provenance.require_same_code(data)
    lines = str(refused.value).splitlines()
    assert f"  fedcba987654: 1 trial ({changed}) of random third" in lines and "git worktree" in lines[-1]


def test_code_that_nobody_recorded_is_not_called_the_same(folder):
    for arm in ("GRPO", "SaEI", "random third"):
        for seed in range(2):
            ran(folder, arm, seed, git_sha="")
    with pytest.raises(ValueError, match="which code the trials of fake ran is not recorded"):
        provenance.require_same_code(load.load_sweep(folder.parent))


def test_other_package_versions_are_told_and_not_refused(folder):
    ran(folder, "SaEI", 1, packages={"torch": "2.12.0", "transformers": "5.23.0"})
    data = load.load_sweep(folder.parent)
    assert provenance.mixed(data) == [
        "The trials ran with other versions of packages: torch 2.12.0 (1 trial) and 2.13.0 (5 trials)."
    ]
    provenance.require_same_code(data)


def test_the_command_refuses_a_mixed_sweep_with_code_2_before_it_builds(folder, capsys):
    ran(folder, "SaEI", 0, git_sha="fedcba9876543210")
    assert report.main(["fake", "--results", str(folder.parent), "--same-code"]) == 2
    assert "fedcba987654: 1 trial" in capsys.readouterr().err
    assert not (folder / "report").exists()


def test_the_page_says_what_is_mixed(folder):
    ran(folder, "SaEI", 0, git_sha="fedcba9876543210")
    told = page.render(load.load_sweep(folder.parent), {})
    assert "The trials ran 2 versions of the code: 0123456789ab: 5 trials" in told


def test_arms_that_a_search_gave_up_have_no_verdict_and_no_part_in_the_adjustment(folder):
    path = folder / schema.PLAN_FILE
    plan = json.loads(path.read_text())
    for entry in plan["trials"]:
        if entry["arm"] == "random third":
            entry["pruned"] = True
    path.write_text(json.dumps(plan))
    data = load.load_sweep(folder.parent)
    assert contrasts.compared(data)["arm"].tolist() == ["GRPO", "SaEI"]
    assert tables.verdicts(data)["arm"].tolist() == ["GRPO", "SaEI (primary contrast)"]
    (told,) = arms.limits(data)
    assert told.endswith("has no row among the verdicts: random third.")
    assert data.trials.loc[data.trials["pruned"], "arm"].unique().tolist() == ["random third"]
