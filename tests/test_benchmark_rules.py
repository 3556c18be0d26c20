"""Scoring of the benchmarks: official verdicts on real outputs, cases by hand, the library itself, hostile text."""

import json
import os
import time
from pathlib import Path

import pytest
from mathruler.grader import grade_answer

from saei.benchmarks import BENCHMARKS, agreement, benchmarks_named, hallusionbench, mathverse, mathvision, mathvista
from saei.benchmarks.decide import decide
from saei.benchmarks.item import UNDECIDED, Item
from saei.benchmarks.reading import letter_behind_answer, number_behind_answer, only_number, option_lines, yes_or_no
from saei.graders import rounded, ruler
from saei.graders.pool import WorkerPool

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("SAEI_DATA", ROOT.parent / "shared" / "data"))
real_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets at {DATA}: set SAEI_DATA")


@pytest.fixture(scope="module")
def pool():
    pool = WorkerPool(1, 2.0)
    yield pool
    pool.close()


# --- published outputs with official verdicts ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def comparisons():
    return {(one.name, one.what): one for one in agreement.compared(DATA)}


@real_data
def test_mathvisions_official_rules_are_ours_on_every_published_output(comparisons):
    read = [one.counts for (_, what), one in comparisons.items() if what == "answer read"]
    verdicts = [comparisons[name, "verdict"].counts for name, make in agreement.SOURCES.items()
                if make is agreement.mathvision_cases]  # fmt: skip
    assert read == [(103, 103, 0, 0)] * 2  # 206 outputs: what is read from them
    assert verdicts == [(53, 53, 0, 0), (60, 60, 0, 0)]  # those whose gold is at hand


@real_data
def test_mathvistas_official_rules_are_ours_on_every_published_extraction(comparisons):
    found = [one.counts for (_, what), one in comparisons.items() if what == "prediction from the extraction"]
    assert found == [(110, 110, 0, 0)] * 2


@real_data
def test_every_disagreement_has_a_reason_and_every_reason_a_disagreement(comparisons):
    assert agreement.unexplained(list(comparisons.values())) == []
    there = {(one.name, case.case_id) for one in comparisons.values() for case in one.disagreements}
    known = {(name, case_id) for name, cases in agreement.reasons().items() for case_id in cases}
    assert known == there


@real_data
def test_rules_that_read_prose_seldom_differ_from_gpt4_and_leave_the_rest(comparisons):
    counts = [one.counts for (_, what), one in comparisons.items() if what == "verdict from the response"]
    assert [(rows, disagree) for rows, _, disagree, _ in counts] == [(110, 0), (110, 1)]
    assert all(undecided > 0 for *_, undecided in counts)  # nothing is guessed


# --- equality ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "gold", "equal"),
    [
        ("\\frac{16}{7}", "2.29", True),  # 2.2857 rounds to 2.29
        ("\\frac{16}{7}", "2.28", False),
        ("1/3", "0.33", True),
        ("(1/2,3)", "(0.5,3)", True),
        ("[1,2]", "(1,2)", False),
        ("60", "$60$", False),  # the official parser cannot read a dollar sign
        ("x", "5", False),
        ("B", "b", True),
        (" ", " ", False),
        ("", "5", False),
        ("5 bricks", "5", False),
        ("1" * 400, "5", False),
    ],
)
def test_mathvisions_equality_rounds_to_two_decimals(answer, gold, equal):
    assert rounded.compare(answer, gold)[0] is equal


@real_data
def test_our_ruler_is_mathruler_on_the_golds_of_geometry3k_and_k12():
    golds = []
    for file in ("geometry3k/test.jsonl", "mm_eureka_k12/test.jsonl"):
        for line in (DATA / file).open(encoding="utf-8"):
            row = json.loads(line)
            golds.append(row.get("answer_latex") or row["answer"])
    pairs = [
        (gold, other) for shift in (0, 1) for gold, other in zip(golds, golds[shift:] + golds[:shift], strict=True)
    ]
    pairs += [
        ("8\\sqrt{3}", "8 \\sqrt { 3 }"),
        ("\\frac{20}{3}", "20/3"),
        ("2/4", "1/2"),
        ("9.0", "9"),
        ("(1,2)", "(1, 2)"),
    ]
    assert [ruler.compare(a, b)[0] for a, b in pairs] == [grade_answer(a, b) for a, b in pairs]


HOSTILE = [
    "().__\u217d\u217cass__",  # Roman numerals that Python reads as the letters c and l
    "''.join('ab')", "a.b", "a._b", "__import__('os')", "9**9**9**9", "9!!!!!", "(" * 200 + "1" + ")" * 200, "[x]*9**9",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_never_reaches_the_evaluating_parser(text, monkeypatch):
    def reached(*_):
        raise AssertionError("evaluated")

    monkeypatch.setattr(ruler.grader.sympy_parser, "parse_expr", reached)
    monkeypatch.setattr(ruler.grader, "grade_answer", reached)
    assert ruler.compare(text, "1")[0] is False


def test_graders_outlive_hostile_answers(pool):
    outcomes = pool.compare([(text, "2") for text in [*HOSTILE, "\\sqrt{" * 50, "2"]], "ruler")
    assert [equal for equal, _ in outcomes] == [False] * (len(HOSTILE) + 1) + [True]
    outcomes = pool.compare([(text, "2") for text in ["9^{9^{9^{9}}}", "[1,9^{9^{9}}]", "4/2"]], "rounded")
    assert [equal for equal, _ in outcomes] == [False, False, True]


# --- reading -------------------------------------------------------------------------------------------------------


def choice(gold="B", options=("10", "20", "30", "40", "50")):
    return mathvision.item(
        {"id": 1, "question": "q", "options": options, "answer": gold, "level": 1, "subject": "s"}, ""
    )


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("So it is (C).", "c"),
        ("D\nbecause", "d"),
        ("The final answer is 12. Really", "12"),
        ("\\boxed{\\text{B}}", "b"),
        ("\\boxed{1} or \\boxed{x = \\dfrac{1}{2}}", "\\frac{1}{2}"),
        ("it is 42.", "42"),
        ("\\boxed{90^{\\circ}}", "90"),
        ("\\boxed{3\\sqrt2}", "3\\sqrt{2}"),
        ("", ""),
    ],
)
def test_mathvision_reads_as_the_official_code(output, answer):
    assert mathvision.read(output, choice()).answer == answer


def test_mathvision_reads_a_number_that_python_cannot():
    digits = "9" * 5000  # Python refuses to make an integer of more than 4,300
    assert mathvision.read(f"\\boxed{{{digits}/1}}", choice()).answer == f"{digits}/1"


def test_mathvision_accepts_the_letter_and_the_text_of_the_option(pool):
    outputs = ["\\boxed{B}", "\\boxed{20}", "\\boxed{20.001}", "\\boxed{C}", "\\boxed{30}"]
    verdicts = decide(mathvision.MATHVISION, outputs, [choice()] * 5, pool)
    assert [verdict.right for verdict in verdicts] == [True, True, True, False, False]
    assert {verdict.decided_by for verdict in verdicts} == {"boxed"}


def test_a_letter_alone_is_shown_as_no_option():
    drawn = choice(options=("A", "B", "C", "D", "E"))
    assert drawn.prompt == "q" and choice().prompt == "q\n(A) 10\n(B) 20\n(C) 30\n(D) 40\n(E) 50"
    row = {"id": 1, "question": "q", "options": [], "answer": "3"}
    assert mathvision.item(row, "official").prompt.startswith('Please solve the problem and put your answer in one "')


def vista(kind="text", choices=("3", "5", "12", "14"), gold="12", precision=None):
    return mathvista.item(
        {"pid": 1, "query": "q", "question": "q", "choices": choices if kind == "text" else None, "answer": gold,
         "question_type": "multi_choice" if kind == "text" else "free_form", "answer_type": kind,
         "precision": precision, "metadata": {"skills": ["a", "b"]}}, "")  # fmt: skip


@pytest.mark.parametrize(
    ("extraction", "kind", "precision", "prediction"),
    [
        ("(C) 12", "text", None, "12"),
        ("B", "text", None, "5"),
        ("c", "text", None, "3"),  # a small letter is no letter: the nearest option, of several the first
        ("125", "text", None, "12"),  # one deletion away; "5" is two
        ("Z", "text", None, "3"),
        ("7.9", "integer", None, "7"),
        ("7 apples", "integer", None, None),
        ("1e999", "integer", None, None),
        ("5.77", "float", 1.0, "5.8"),
        ("5.777", "float", 2, "5.78"),
        ("[1, 2]", "list", None, "[1, 2]"),
    ],
)
def test_mathvista_normalises_as_the_official_code(extraction, kind, precision, prediction):
    assert mathvista.prediction(extraction, vista(kind, precision=precision)) == prediction


@pytest.mark.parametrize(
    ("output", "kind", "answer"),
    [
        ("The correct answer is **(C)**.", "text", "C"),
        ("The answer is (A). No, the answer is (B).", "text", None),
        ("12", "text", "12"),
        ("\\boxed{12}", "text", "12"),
        ("I see nothing.", "text", None),
        ("so the answer is **1,200**", "integer", "1200"),
        ("\\boxed{7\\text{ cm}}", "integer", "7"),
        ("There are 3 of them.", "integer", "3"),
        ("There are two higher than 9.", "integer", None),
        ("", "integer", None),
    ],
)
def test_mathvista_reads_what_is_stated_plainly(output, kind, answer):
    assert mathvista.read(output, vista(kind)).answer == answer


def test_prose_is_read_narrowly():
    assert letter_behind_answer("Answer: C") == "C" and letter_behind_answer("the answer is Cats") is None
    assert number_behind_answer("the answer is -4.5 cm") == "-4.5" and number_behind_answer("the answer is big") is None
    assert only_number("it is 1,234 long") == "1234" and only_number("1 or 2") is None
    assert yes_or_no("Yes, it is.") == "yes" and yes_or_no("no yes") is None and yes_or_no("not eyes") is None
    assert option_lines("q\nChoices:\nA:40°\nB:50°") == ("40°", "50°") and option_lines("B. only\nC. c") == ()


def verse(gold, multi=True, question="Find it\nChoices:\nA:40°\nB:50°"):
    kind = "multi-choice" if multi else "free-form"
    row = {"sample_index": "1", "problem_index": "7", "problem_version": "Text Lite", "question": question}
    row |= {"answer": gold, "question_type": kind, "metadata": {"subject": "s"}}
    return mathverse.item(row, "noisyrollout")


def test_mathverse_decides_letters_and_mathematics_and_leaves_prose(pool):
    free = verse("\\frac{1}{2}", multi=False)
    outputs = [
        "\\boxed{B}",
        "\\boxed{50°}",
        "A",
        "who knows",
        "\\boxed{0.5}",
        "\\boxed{0.6}",
        "\\boxed{the half of it}",
    ]
    items = [verse("B")] * 4 + [free] * 3
    verdicts = decide(mathverse.MATHVERSE, outputs, items, pool)
    assert [verdict.right for verdict in verdicts] == [True, True, False, False, True, False, False]
    assert [verdict.decided_by == UNDECIDED for verdict in verdicts] == [False, False, False, True, False, False, True]


def test_outputs_of_any_length_are_read_at_once(pool):
    long = ["\\boxed{" + "(" * 100_000 + "}", "answer is " * 20_000, "1" * 200_000, "\\boxed{" + "9" * 100_000 + "}"]
    start = time.monotonic()
    for benchmark, item in ((mathverse.MATHVERSE, verse("B")), (mathverse.MATHVERSE, verse("3", multi=False)),
                            (mathvision.MATHVISION, choice()), (mathvista.MATHVISTA, vista()),
                            (mathvista.MATHVISTA, vista("integer"))):  # fmt: skip
        assert not any(verdict.right for verdict in decide(benchmark, long, [item] * len(long), pool))
    assert time.monotonic() - start < 20.0  # a second; quadratic rules would take hours


def test_a_multi_select_gold_needs_all_its_letters(pool):
    verdicts = decide(mathverse.MATHVERSE, ["\\boxed{D, C}", "\\boxed{C}"], [verse("C\nD", question="q")] * 2, pool)
    assert [verdict.right for verdict in verdicts] == [True, False]


def test_a_box_that_is_missing_is_wrong_by_rule_in_geometry3k(pool):
    item = BENCHMARKS["geometry3k"].item(
        {"problem": "<image>Find x.", "answer": "8 \\sqrt { 3 }", "row": 4}, "official"
    )
    assert item.item_id == "4" and item.prompt.startswith("Find x. You FIRST")
    verdicts = decide(
        BENCHMARKS["geometry3k"], ["8 \\sqrt { 3 }", "\\boxed{8\\sqrt{3}}", "\\boxed{13.86}"], [item] * 3, pool
    )
    assert [(one.right, one.decided_by) for one in verdicts] == [(False, "boxed"), (True, "boxed"), (False, "boxed")]


# --- HallusionBench --------------------------------------------------------------------------------------------------


@real_data
def test_hallusionbench_has_the_official_groups():
    rows = json.loads((DATA / "hallusionbench" / "HallusionBench.json").read_text())
    items = [hallusionbench.item(row, "official") for row in rows]
    ids = [item.item_id for item in items]
    assert len(items) == len(set(ids)) == 1129
    pictured = [item for item in items if item.facts["visual_input"] != "no picture"]
    for some in (items, pictured):
        groups = hallusionbench.groups(some, dict.fromkeys(ids, True))
        assert (len(groups["fAcc"]), len(groups["qAcc"])) == (346, 455)
        apart = {name: len(units) for name, units in groups.items() if name.endswith("pictured")}
        assert apart == ({"aAcc, pictured": 951, "qAcc, pictured": 455} if some is items else {})
    assert len(pictured) == 951


def test_a_pair_or_a_figure_is_right_only_as_a_whole():
    row = {
        "category": "VS",
        "subcategory": "map",
        "set_id": "0",
        "gt_answer": "1",
        "visual_input": "1",
        "question": "a?",
    }
    items = [
        hallusionbench.item({**row, "figure_id": figure, "question_id": question}, "noisyrollout")
        for figure, question in (("0", "0"), ("1", "0"), ("1", "1"))
    ]
    right = {items[0].item_id: False, items[1].item_id: True, items[2].item_id: True}
    groups = hallusionbench.groups(items, right)
    assert sorted(groups["qAcc"].values()) == [0.0, 1.0]  # question 0 is wrong without the picture
    assert list(groups["qAcc, pictured"].values()) == list(groups["aAcc, pictured"].values()) == [1.0, 1.0]
    assert list(groups["fAcc"].values()) == [1.0]  # figure 0 of VS is no figure
    assert items[0].prompt == "a? You final answer can only be \\boxed{yes} or \\boxed{no}."


def test_wemath_tells_four_dimensions_apart():
    benchmark = BENCHMARKS["wemath"]
    row = {"question": "q", "option": "A. 1;B. 2", "answer": "B"}
    keys = ("2steps_1", "2steps_2", "2steps_multi")
    marks = {"1": (1, 1, 1), "2": (1, 1, 0), "3": (1, 0, 1), "4": (0, 0, 1), "5": (1, 0, 0), "6": (1, 1)}
    right = {f"{name}@{key}": bool(mark) for name, own in marks.items() for key, mark in zip(keys, own, strict=False)}
    items = [benchmark.item({**row, "ID": one.split("@")[0], "key": one.split("@")[1]}, "") for one in right]
    groups = benchmark.groups(items, right)
    sums = {name: sum(units.values()) for name, units in groups.items()}  # the sixth has no whole: left out
    assert sums == {"IK": 1, "IG": 1, "CM (strict)": 1, "CM (loose)": 2, "RM (strict)": 2, "RM (loose)": 1,
                    "score (strict)": 1.5, "score (loose)": 2.5}  # fmt: skip
    assert len(groups["IK"]) == 5
    answers = [
        benchmark.read(text, items[0]).answer for text in ("<Answer>: B.", "\\boxed{B. 2}", "B", "Answer A or Answer B")
    ]
    assert answers == ["B", "B", "B", None]


def test_an_unknown_benchmark_is_refused_by_name():
    assert list(benchmarks_named("mathvista, mmk12")) == ["mathvista", "mmk12"]
    with pytest.raises(ValueError, match="no 'mathsvista'; known are mathvista"):
        benchmarks_named("mathsvista")
    assert isinstance(choice(), Item)
