"""The report's page without a browser: tables, commands, sentences, and HTML that a strict parser accepts."""

import json
import shlex

import html5lib
import pandas as pd
import pytest

from analysis import differing, fragments, load, page, prose, provenance, repeat, report, unfinished
from saei import schema
from tests.fake_results import fake_id, write_sweep

HOSTILE = "<script>x</script>\x00\u202e&\"'"


def change(path, **facts):
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


@pytest.fixture
def folder(tmp_path):
    """Two seeds of three arms; one failed, one is missing."""
    small = {"seeds": 2, "steps": 4, "problems": 2, "samples": 2, "text": HOSTILE}
    failed, missing = {("SaEI", 1): schema.FAILED}, [("random third", 1)]
    return write_sweep(tmp_path, **small, unfinished=failed, leave_out=missing, alarms={})


def parsed(text):
    """The tree of the page; raises ParseError for the first thing that is no HTML."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)


def test_the_page_is_html_without_a_parse_error_whatever_is_in_it(folder):
    change(folder / schema.PLAN_FILE, question=HOSTILE, command=f"python '{HOSTILE}")
    change(folder / fake_id("SaEI", 1) / schema.STATUS_FILE, message=HOSTILE)
    tree = parsed(page.render(load.load_sweep(folder.parent), {}))
    assert tree.find(".//script") is None
    assert tree.find(".//h1").text == "<script>x</script>\ufffd\ufffd&\"'"
    with pytest.raises(html5lib.html5parser.ParseError):
        parsed("<!doctype html><title>x</title><p><b>x</p>")


def test_the_name_of_a_setting_may_break_where_its_words_end():
    found = str(fragments.table(pd.DataFrame({"select.drop_low": ["random_third", "1.5"], "a b": ["x_y", "z"]})))
    assert "select.<wbr>drop_<wbr>low</th>" in found and "a b</th>" in found
    assert "random_<wbr>third</td>" in found and "1.5</td>" in found and "x_y</td>" in found


def test_amounts_stand_at_the_right_and_names_at_the_left():
    frame = pd.DataFrame(
        {
            "arm": ["grpo", "1/3 of them"],
            "p": ["–", "< 0.001"],
            "interval": ["+1.2 to +3.4", "−0.5 to +10.0"],
            "tokens": ["60 k (1.00×)", "120 k (2.00×)"],
            "seeds": ["5 paired", "about 12"],
            "trial": ["0123456789ab-s0", "00693629ff8e-s1"],
            "count": [1, 2],
        }
    )
    tree = parsed(f"<!doctype html><title>x</title>{fragments.table(frame)}")
    right = {cell.text for cell in tree.iter("th") if cell.get("class") == "amount"}
    assert right == {"p", "interval", "tokens", "seeds", "count"}
    assert len([cell for cell in tree.iter("td") if cell.get("class") == "amount"]) == 2 * len(right)


def test_a_caption_stands_above_the_box_that_scrolls_and_names_it():
    html = "<table><caption>Unit: <b>seed</b></caption><tbody><tr><td>1</td></tr></tbody></table>"
    words = "Unit: &lt;b&gt;seed&lt;/b&gt;"
    shown = str(fragments.boxed(html))
    assert shown.startswith(f'<p class="caption">{words}</p><div class="wide" role="region" aria-label="{words}"')
    assert "<caption" not in shown


def test_what_is_no_table_is_kept_as_cleaned_text():
    assert "&lt;script&gt;" in fragments.boxed("<p><em>none</em> <script>x</script></p>")
    assert "<td>a &amp; b</td>" in fragments.boxed(
        "<table><tbody><tr onclick=x><td>a &amp; b</td></tr></tbody></table>"
    )


def test_headings_of_notebooks_have_names_of_their_own():
    to_html = prose.renderer("accuracy")
    shown = to_html("# What *has* run\n\n## By view\n\n## By view\n\n![x](http://example.org/a.png) [y](javascript:z)")
    assert '<h2 id="accuracy-what-has-run">' in shown
    assert '<h3 id="accuracy-by-view">' in shown and '<h3 id="accuracy-by-view-2">' in shown
    assert "<img" not in shown and "javascript:" not in shown


def test_unfinished_trials_say_what_their_status_says_and_which_command_finishes_them(folder):
    data = load.load_sweep(folder.parent)
    shown = unfinished.unfinished(data)
    assert shown.values.tolist() == [
        ["failed", "SaEI", "1", "2 of 4", "RuntimeError: loss is not finite"],
        ["missing", "random third", "1", "–", "–"],
    ]
    assert [text.split(" ")[:2] for text in unfinished.sentences(data)] == [["1", "failed:"], ["1", "not"]]
    assert unfinished.why(data).startswith("python sweeps/run.py why fake/SaEI-s1 --results ")
    text = page.render(data, {})
    assert "RuntimeError: loss is not finite" in text and "sweeps/run.py why fake/SaEI-s1" in text


@pytest.mark.parametrize(
    ("launched", "is_used"),
    [
        ("python sweeps/run.py fake --seeds 2 --jobs 2", True),
        ("python sweeps/run.py fake", True),
        ("python sweeps/run.py fake --only GRPO --only SaEI --only 'random third'", True),
        ("python sweeps/run.py fake --only GRPO", False),  # would leave out two arms
        ("python sweeps/run.py fake --seeds=1", False),  # and a seed
        ("python sweeps/run.py 'half a quote", False),
        ("", False),
    ],
)
def test_the_launch_that_the_plan_remembers_finishes_a_sweep_where_it_covers_all_of_it(folder, launched, is_used):
    change(folder / schema.PLAN_FILE, command=launched)
    words = repeat.finishing(load.load_sweep(folder.parent))
    assert (words == launched) == is_used
    assert is_used or shlex.split(words)[:5] == ["python", "sweeps/run.py", "fake", "--seeds", "2"]


def test_where_and_how_the_last_launch_ran_is_kept_in_the_command_that_finishes(folder):
    change(folder / schema.PLAN_FILE, command="python sweeps/run.py fake --only GRPO --results /data --on=slurm")
    words = shlex.split(repeat.finishing(load.load_sweep(folder.parent)))
    assert words[-4:] == ["--results", "/data", "--on", "slurm"]
    assert words.count("--only") == 3


def test_a_long_command_is_broken_before_options_and_is_the_same_to_a_shell():
    words = ["python", "sweeps/run.py", "fake", *(part for n in range(12) for part in ("--only", f"an arm {n}"))]
    folded = repeat.folded(shlex.join(words))
    lines = folded.split(" \\\n  ")
    assert len(lines) == 3 and all(line.startswith("--only 'an arm") for line in lines[1:])
    assert shlex.split(folded.replace("\\\n", "")) == words
    assert repeat.folded("python -m analysis.report fake") == "python -m analysis.report fake"
    assert repeat.folded("'half a quote " * 9) == "'half a quote " * 9


def test_settings_of_the_arms_are_those_that_the_runs_recorded(folder):
    recorded = {
        "GRPO": {"rule": "all"},
        "SaEI": {"rule": "middle", "drop_low": "1/3"},
        "random third": {"drop_low": "0"},
    }
    for arm, select in recorded.items():
        path = folder / fake_id(arm, 0) / schema.CONFIG_FILE
        tree = json.loads(path.read_text())
        tree["config"]["select"] = select
        path.write_text(json.dumps(tree))
    shown = differing.differences(load.load_sweep(folder.parent)).set_index("arm")
    assert shown["select.rule"].to_dict() == {"GRPO": "all", "SaEI": "middle", "random third": "–"}
    assert shown["select.drop_low"].to_dict() == {"GRPO": "–", "SaEI": "1/3", "random third": "0"}


def test_many_settings_are_listed_as_far_as_they_differ_from_the_baselines(folder):
    for arm, value in (("GRPO", 1), ("SaEI", 2)):
        path = folder / fake_id(arm, 0) / schema.CONFIG_FILE
        tree = json.loads(path.read_text())
        tree["config"]["view"] = {f"a{number}": value for number in range(9)} | {"same": 3}
        path.write_text(json.dumps(tree))
    shown = differing.differences(load.load_sweep(folder.parent)).set_index("arm")
    told = shown["settings other than those of GRPO"]
    assert told["SaEI"].startswith("view.a0 = 2, view.a1 = 2, ") and "same" not in told["SaEI"]


def test_hosts_are_told_apart_with_their_trials(folder):
    change(folder / fake_id("GRPO", 0) / schema.ENVIRONMENT_FILE, host="cluster", device_name="H200")
    shown = provenance.environments(load.load_sweep(folder.parent))
    assert shown[["host", "device", "trials"]].values.tolist() == [["cluster", "H200", 1], ["laptop", "cpu", 4]]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--since", "yesterday"], "--since is a date"),
        (["--where", "view.step_size"], "is not SETTING OPERATOR VALUE"),
        (["--where", "nothing == 1"], "no trial has a setting 'nothing'"),
        (["--where", "seed == 99"], "none of the 6 trials of fake is selected"),
        (["--where", "arm == nobody"], "the sweep has no arm 'nobody'; there are GRPO, SaEI, random third"),
    ],
)
def test_a_selection_that_cannot_be_is_refused_before_anything_is_built(folder, capsys, words, told):
    assert report.main(["fake", "--results", str(folder.parent), *words]) == 2
    assert told in capsys.readouterr().err
    assert not (folder / "report").exists()


@pytest.fixture
def no_notebooks(monkeypatch, tmp_path_factory):
    """The page alone: what the notebooks are executed on is kept."""
    seen = []

    def instead(names, parameters, folder, **_):
        seen.append(parameters)
        return {}

    monkeypatch.setattr(report, "execute_all", instead)
    return seen


def test_a_selection_is_told_on_the_page_and_given_to_the_notebooks(folder, no_notebooks):
    words = ["fake", "--results", str(folder.parent), "--where", "arm in [GRPO, SaEI]", "--where", "seed == 0"]
    assert report.main(words) == 0
    text = (folder / "report" / "index.html").read_text()
    assert "Only trials with arm in [GRPO, SaEI] and seed == 0: 2 of 6" in text
    again = load.load_sweep(no_notebooks[0]["results"], "fake")
    assert again.arms == ["GRPO", "SaEI"] and again.plan["seeds"] == [0]


def test_several_folders_make_one_report_in_the_first(folder, tmp_path, no_notebooks):
    other = write_sweep(tmp_path / "copied", seeds=2, steps=4, problems=2, samples=2, text="")
    assert report.main(["fake", "--results", str(folder.parent), "--results", str(other.parent)]) == 0
    text = (folder / "report" / "index.html").read_text()
    assert "Merged from" in text and "None: every planned trial is finished." in text
    assert not (other / "report").exists()
    assert f"--results {folder.parent}" in text and f"--results {other.parent}" in text


def test_an_interrupt_leaves_the_page_of_before(folder, monkeypatch, capsys):
    path = folder / "report" / "index.html"
    path.parent.mkdir()
    path.write_text("before")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "execute_all", interrupted)
    assert report.main(["fake", "--results", str(folder.parent)]) == 130
    assert path.read_text() == "before" and "interrupted" in capsys.readouterr().err
