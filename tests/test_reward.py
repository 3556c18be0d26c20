"""Grading: by hand, on every gold answer of the real data sets, against hostile text, and with workers that die."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from itertools import permutations
from pathlib import Path

import pytest

from saei import reward as reward_module
from saei.config import RewardConfig
from saei.graders.extract import boxed_answer, has_format
from saei.reward import GRADE_FAILURES, GRADE_OK, Grade, GraderBug, GraderFailure, Scorer, check_failures
from saei.types import Problem

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("SAEI_DATA", ROOT.parent / "shared" / "data"))
real_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets at {DATA}: set SAEI_DATA")


def problem(gold, answer_type="math", choices=None):
    return Problem(problem_id="p", images=(), question="?", answer=gold, answer_type=answer_type, choices=choices)


def wrapped(answer):
    return f"<think>x</think>\\boxed{{{answer}}}"


@pytest.fixture(scope="module")
def scorer():
    with Scorer(RewardConfig()) as scorer:
        yield scorer


def is_right(scorer, answer, gold, answer_type="math", choices=None):
    (grade,) = scorer.grade([wrapped(answer)], [problem(gold, answer_type, choices)])
    return grade.accuracy == 1.0


def is_gone(process_id):
    """Dead, or a zombie that nobody has waited for."""
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state in "ZX"


def wait_until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


# --- what is graded -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{7}", "7"),
        ("\\boxed{1} then \\boxed{ 2 }", "2"),
        ("\\boxed{\\frac{1}{2}} is it", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{\\}}", "\\}"),
        ("\\boxed{\\boxed{3}}", "3"),
        ("\\boxed{1} and cut off: \\boxed{\\frac{1}{", None),
        ("\\boxed{}", None),
        ("\\boxed{ }", None),
        ("7", None),
        ("", None),
    ],
)
def test_the_answer_is_the_last_closed_box(text, answer):
    assert boxed_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a\nb</think>\n\\boxed{7}\n", True),
        ("<think></think>\\boxed{}", True),
        ("<think></think></think>\\boxed{1}", True),
        (" <think>a</think>\\boxed{7}", False),  # fullmatch: it must start with <think>
        ("<think>\\boxed{7}</think>", False),
        ("<think>a</think>\\boxed{7", False),
        ("<think>a\\boxed{7}", False),
        ("7", False),
    ],
)
def test_the_format_is_that_of_the_regular_expression(text, expected):
    import re

    assert has_format(text) is expected
    assert bool(re.fullmatch(r"<think>.*</think>.*\\boxed\{.*\}.*", text, re.DOTALL)) is expected


def test_looking_for_the_format_takes_linear_time():
    texts = ["<think>" * 20_000, "<think>" + "</think>" * 20_000, "<think></think>" + "\\boxed{" * 20_000]
    start = time.monotonic()
    assert not any(has_format(text) for text in texts)
    assert all(boxed_answer(text) is None for text in texts)
    assert time.monotonic() - start < 1.0  # milliseconds; the regular expression needs minutes


def test_the_reward_weighs_accuracy_and_format(scorer):
    texts = [wrapped(7), "\\boxed{7}", wrapped(8), "8"]
    grades = scorer.grade(texts, [problem("7", "number")] * 4)
    # .9 + .1; .9 alone; .1 alone; neither
    assert [round(scorer.reward(grade), 12) for grade in grades] == [1.0, 0.9, 0.1, 0.0]
    assert [grade.status for grade in grades] == ["ok", "ok", "ok", "no_answer"]


# --- numbers, words, choices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["7", "7.0", "07", "+7", " 7 ", "7.", "$7$", "\\text{7}", "7.000"])
def test_spellings_of_seven_are_seven(scorer, answer):
    assert is_right(scorer, answer, "7", "number")


@pytest.mark.parametrize("answer", ["-7", "70", "7.01", "7 7", "seven", "1e0", "14/2", "VII", "٧", "7-", "0x7", "--7"])
def test_anything_else_is_not_seven(scorer, answer):
    assert not is_right(scorer, answer, "7", "number")


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("1,000", "1000", True),
        ("1000", "1,000", True),
        ("1,00", "100", False),
        ("-0", "0", True),
        ("\u22123", "-3", True),
        (".5", "0.50", True),
        ("0.1", "0.10000000000000000001", False),
    ],
)
def test_numbers_are_compared_by_exact_value(scorer, answer, gold, right):
    assert is_right(scorer, answer, gold, "number") is right


def test_numbers_need_no_worker():
    with Scorer(RewardConfig()) as scorer:
        assert is_right(scorer, "7", "7", "number")
        assert scorer.pool.process_ids == []


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [("Yes", "yes", True), ("\\text{ dark  blue }.", "Dark Blue", True), ("yes, no", "yes", False), ("$ $", "", False)],
)
def test_words_are_compared_without_case_and_spacing(scorer, answer, gold, right):
    assert is_right(scorer, answer, gold, "text") is right


LENGTHS = ("10 cm", "11 cm", "12 cm")


@pytest.mark.parametrize(
    ("answer", "gold", "choices", "right"),
    [
        ("C", "C", None, True),
        ("(c)", "C", None, True),
        ("C. because", "C", None, True),
        ("B", "C", None, False),
        ("A dog", "A", None, False),
        ("D, C", "C\nD", None, True),
        ("C", "C\nD", None, False),
        ("C", "12 cm", LENGTHS, True),
        ("12 cm", "C", LENGTHS, True),
        ("(C) 12 cm", "C", LENGTHS, True),
        ("C: 11 cm", "C", LENGTHS, False),
        ("12cm", "12 cm", LENGTHS, True),
        ("D", "12 cm", LENGTHS, False),
        ("B", "12 cm", LENGTHS, False),
        ("D", "D", ("A", "B", "C", "E", "none"), True),  # golds of this data set are letters,
        ("E", "D", ("A", "B", "C", "E", "none"), False),  # so E is "none"
    ],
)
def test_a_choice_is_named_by_letter_or_text(scorer, answer, gold, choices, right):
    assert is_right(scorer, answer, gold, "choice", choices) is right


# --- mathematics --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("2\\sqrt{21}", "2*{21^0.5}"),  # geometry3k's roots
        ("\\frac{12\\sqrt{11}}{5}", "12/5*{11^0.5}"),
        ("10y(2y-1)", "20y^2-10y"),
        ("1.5", "$$\\dfrac{3}{2}$$"),
        ("12", "12 meters."),
        ("12\\text{ m}", "12 meters."),
        ("4\\text{ cm}^2", "4 cm²"),
        ("145^\\circ", "145°"),
        ("254.4, 267.12", "254.4\n267.12"),
        ("-2; 1/2; 5/4", "−2\n0.5\n$1\\frac{1}{4}$"),
        ("(1) 0.04 (2) 440", "(1)$$0.04$$ (2)$$440$$"),
        ("2, 6, 10", "6 or 2 or 10"),
        ("\\frac{36}{13}", "\x0crac{36}{13}"),  # \f read as an escape
        ("16/7", "$\\boxed{\\frac{16}{7}}$"),
        ("21.61", "$y=21.61$"),
        ("1000", "1,000"),
        ("2sqrt(3)", "2√{3}"),
        ("9pi", "9πcm^{2}"),
        ("(a-c)(b-c)", "$ab-bc-ac+{{c}^{2}}$"),
        ("Rhombus", "rhombus."),
        ("118掳T", "118掳T"),
    ],
)
def test_the_same_value_in_another_spelling_is_right(scorer, answer, gold):
    assert is_right(scorer, answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("267.12, 254.4", "254.4\n267.12"),
        ("254.4", "254.4\n267.12"),
        ("84", "8\n4"),
        ("12 km", "12 meters."),
        ("4 cm", "4 cm²"),
        ("3", "3ab"),
        ("2", "2t"),
        ("1 2", "3"),  # not the mixed number 1 + 2
        ("subrhom", "rhombus"),  # not the product of the same letters
        ("(2,1)", "(1, 2)"),
        ("9.17", "2*{21^0.5}"),
        ("\\frac{1}{0}", "3"),
        ("118", "118掳T"),
    ],
)
def test_another_value_is_wrong(scorer, answer, gold):
    assert not is_right(scorer, answer, gold)


def test_a_gold_that_is_no_mathematics_rewards_only_its_own_string(scorer):
    texts = [wrapped(answer) for answer in (">", "$ > $", "<", "7")]
    grades = scorer.grade(texts, [problem("$>$")] * 4)
    assert [grade.accuracy for grade in grades] == [1.0, 1.0, 0.0, 0.0]
    assert [grade.status for grade in grades] == ["ok", "ok", "gold_unparsed", "gold_unparsed"]
    assert "gold_unparsed" not in GRADE_FAILURES


# --- every gold answer of the data sets ---------------------------------------------------------------------------

# Golds of different rows that count as equal, and why.
EQUAL = {
    "mm_eureka_k12": [
        ("only dressed differently", {"$$6$$", "6"}, {"50", "$$50$$"}, {"$$2$$", "2"}, {"9.", "9"}),
        ("only dressed differently", {"$$\\number{24} $$", "24"}, {"$$55^{\\circ}$$", "55°"}),
        ("only dressed differently", {"$$\\dfrac{2}{3}$$", "$\\frac{2}{3}$"}, {"$$\\dfrac{2}{5}$$", "$\\frac{2}{5}$."}),
        ("only dressed differently", {"$$67.5^{\\circ}$$", "67.5°"}),
        ("a value assigned to a letter", {"$$3$$", "3", "$y=3$"}),
        ("a unit may be left out", {"12 meters.", "12."}, {"4 cm²", "4", "$4$", "$$4$$"}),
        ("a degree sign may be left out", {"30${}^\\circ $", "$$30$$"}, {"$5$", "$$5$$", "5", "$$5^{\\circ}$$"}),
        ("a ratio is its value", {"$$1:1$$", "$$1$$", "1"}),
    ],
}


def read(file):
    return [json.loads(line) for line in (DATA / file).open(encoding="utf-8")]


def golds_to_compare(folder):
    """{answer type: [(gold, choices, row)]} of a data set, each different gold once a type and set of choices."""
    files = sorted((DATA / folder).glob("*.jsonl"))
    rows = [row for file in files for row in read(file.relative_to(DATA)) if "answer" in row]
    found = {}
    for row in rows:
        kind, choices = row["answer_type"], tuple(row["choices"]) if row["choices"] else None
        answer_type = {"free_form": "math", "numeric_expression": "math", "choice_letter": "choice", "list": "math"}
        answer_type |= {"integer": "number", "float": "number", "text": "choice" if choices else "text"}
        key = (str(row["answer"]), choices)
        found.setdefault(answer_type.get(kind, "text"), {}).setdefault(key, row)
    return {
        answer_type: [(gold, choices, row) for (gold, choices), row in by_key.items()]
        for answer_type, by_key in found.items()
    }


def known_equal(folder, answer_type, other, gold, choices):
    """Whether an answer equal to another row's gold is right for this one, by rule or by the list above."""
    if other[0] == gold[0]:
        return True
    values = [entry[2].get("answer_value") for entry in (other, gold)]  # geometry3k's own numerical values
    if None not in values:
        return abs(values[0] - values[1]) < 1e-6
    if answer_type == "choice" and choices:  # a letter names an option; options differ in case and spacing only
        name = other[0].strip("()").upper()
        letters = [chr(ord("A") + i) for i, choice in enumerate(choices) if choice == gold[0]] or [gold[0]]
        return name in letters or "".join(other[0].split()).lower() == "".join(gold[0].split()).lower()
    if answer_type == "number":
        return float(other[0]) == float(gold[0])
    if answer_type == "text":
        return other[0].lower() == gold[0].lower()
    return any({other[0], gold[0]} <= equal for _, *sets in EQUAL.get(folder, ()) for equal in sets)


FOLDERS = ("geometry3k", "mm_eureka_k12", "mathvision", "mathvista", "mathverse", "easy_vqa")


def check_pairs(scorer, folder, answer_type, pairs):
    grades = scorer.grade(
        [wrapped(other[0]) for other, _ in pairs], [problem(gold[0], answer_type, gold[1]) for _, gold in pairs]
    )
    for (other, gold), grade in zip(pairs, grades, strict=True):
        assert grade.status not in GRADE_FAILURES, (other[0], gold[0], grade.status)
        expected = known_equal(folder, answer_type, other, gold, gold[1])
        assert grade.accuracy == expected, (other[0], gold[0], grade)


@real_data
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_gold_is_right_for_its_own_row(scorer, folder):
    for answer_type, golds in golds_to_compare(folder).items():
        grades = scorer.grade(
            [wrapped(gold) for gold, _, _ in golds], [problem(gold, answer_type, choices) for gold, choices, _ in golds]
        )
        wrong = [gold for (gold, _, _), grade in zip(golds, grades, strict=True) if grade.accuracy != 1]
        assert golds and wrong == []


@real_data
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_gold_is_wrong_for_the_next_rows(scorer, folder):
    for answer_type, golds in golds_to_compare(folder).items():
        shifted = [golds[i:] + golds[:i] for i in (1, 2, 7)]
        check_pairs(scorer, folder, answer_type, [pair for other in shifted for pair in zip(other, golds, strict=True)])


@real_data
@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_gold_is_wrong_for_every_other_row(folder):
    with Scorer(RewardConfig(timeout_s=20.0)) as patient:
        for answer_type, golds in golds_to_compare(folder).items():
            check_pairs(patient, folder, answer_type, list(permutations(golds, 2)))


@real_data
def test_the_golds_of_hallusionbench_are_told_apart(scorer):
    rows = json.loads((DATA / "hallusionbench" / "HallusionBench.json").read_text())
    golds = [row["gt_answer"] for row in rows]
    assert len(golds) == 1129 and set(golds) == {"0", "1"}
    grades = scorer.grade([wrapped("1")] * len(golds), [problem(gold, "number") for gold in golds])
    assert [grade.accuracy for grade in grades] == [float(gold == "1") for gold in golds]


@real_data
def test_real_responses_get_the_verdict_of_the_official_scorer(scorer):
    golds = {row["id"]: row for row in read("mathvision/testmini.jsonl")}
    graded, differing = 0, []
    for name in ("mathvision_qwen_vl_max_cot", "mathvision_gemini_pro_cot"):
        for response in read(f"model_outputs/{name}.jsonl"):
            row = golds.get(f"mathvision-{response['id']}")
            if row is None or "\\boxed" not in response["response"]:
                continue  # without a box the official scorer guesses from the prose
            kind = "choice" if row["answer_type"] == "choice_letter" else "math"
            choices = tuple(row["choices"]) if row["choices"] else None
            (grade,) = scorer.grade([response["response"]], [problem(row["answer"], kind, choices)])
            graded += 1
            if bool(grade.accuracy) != response["correct"]:
                differing.append((grade.answer, row["answer"], row["choices"][2]))
    # the value of option C, named by its value: the official scorer compares 60^{\circ} with $60^{\circ}$ as strings
    assert graded == 90 and differing == [("60^{\\circ}", "C", "$60^{\\circ}$")]


# --- hostile text -------------------------------------------------------------------------------------------------

HOSTILE = {
    "tower": "9^{9^{9^9}}",
    "digits": "9" * 100_000,
    "braces": "{" * 900 + "}" * 900,
    "parentheses": "(" * 900 + ")" * 900,
    "deep": "\\sqrt{" * 20_000 + "}" * 20_000,
    "endless sum": "\\sum_{n=1}^{10000000000} n^n",
    "endless terms": "1+" * 50_000 + "1",
    "powers": "x^" * 600 + "2",
    "null bytes": "1\x002",
    "surrogates": "\ud800\udfff",
    "control": "\x1b]0;owned\x07",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_wrong_within_two_seconds(scorer, name):
    scorer.grade([wrapped(f"x+{name}")], [problem("x+2")])  # workers are running
    start = time.monotonic()
    (grade,) = scorer.grade([wrapped(HOSTILE[name])], [problem("3")])
    assert time.monotonic() - start < 2.0
    assert grade.accuracy == 0.0 and grade.format == 1.0
    if name in ("tower", "digits", "deep", "endless sum", "endless terms"):
        assert grade.status in GRADE_FAILURES


def test_a_hostile_answer_to_a_number_problem_costs_nothing(scorer):
    start = time.monotonic()
    grades = scorer.grade([wrapped(text) for text in HOSTILE.values()], [problem("3", "number")] * len(HOSTILE))
    assert time.monotonic() - start < 1.0
    assert {grade.accuracy for grade in grades} == {0.0}
    assert grades[0].status == GRADE_OK and grades[1].status == "too_long"


@pytest.mark.parametrize(
    "code", ["__import__('os').system('touch {}')", "open('{}','w')", "\\text{{exec}}(open('{}','w'))", "().__class__"]
)
def test_no_answer_is_executed(scorer, tmp_path, code):
    mark = tmp_path / "mark"
    (grade,) = scorer.grade([wrapped(code.format(mark))], [problem("3")])
    assert grade.accuracy == 0.0 and not mark.exists()


def test_a_hostile_answer_leaves_its_neighbours_alone(scorer):
    texts = [wrapped("x+1"), wrapped("9^{9^{9^9}}"), wrapped("1+x")]
    grades = scorer.grade(texts, [problem("x + 1"), problem("2"), problem("x+1")])
    assert [grade.accuracy for grade in grades] == [1.0, 0.0, 1.0]
    assert [grade.status for grade in grades] == ["ok", "timeout", "ok"]


def test_too_many_failures_stop_the_run_and_show_the_first():
    sound = Grade(accuracy=1.0, format=1.0, status="ok", answer="7")
    missing = Grade(accuracy=0.0, format=0.0, status="no_answer", answer="")
    late = Grade(accuracy=0.0, format=1.0, status="timeout", answer="9^9")
    # 1 of 20 is 5 %, not more; a missing answer is no failure of the grader
    check_failures([missing] * 19 + [late], ["text"] * 20, 0.05)
    with pytest.raises(GraderFailure) as failure:
        check_failures([sound] * 17 + [late] * 2, ["fine"] * 17 + ["bad \x1b[31m\n" + "x" * 9999, "worse"], 0.05)
    message = str(failure.value)
    assert "2 of 19 completions" in message and "timeout" in message and "'9^9'" in message
    assert "bad \\x1b[31m\\n" in message and "(10009 characters)" in message and len(message) < 1000
    assert "\x1b" not in message and "worse" not in message


# --- workers ------------------------------------------------------------------------------------------------------


def test_a_thousand_ordinary_answers_take_less_than_ten_seconds():
    answers = [f"\\frac{{{i}}}{{7}}" if i % 2 else f"{i}\\sqrt{{3}}" for i in range(1000)]
    with Scorer(RewardConfig()) as scorer:
        start = time.monotonic()
        grades = scorer.grade([wrapped(answer) for answer in answers], [problem("\\frac{21}{7}")] * 1000)
        assert time.monotonic() - start < 10.0
    # 21/7, and nothing else: i sqrt(3) = 3 has no whole solution
    assert [i for i, grade in enumerate(grades) if grade.accuracy] == [21]
    assert {grade.status for grade in grades} == {"ok"}


def test_killed_workers_are_replaced_and_no_grade_is_lost():
    with Scorer(RewardConfig(workers=2)) as scorer:
        assert is_right(scorer, "x+1", "1+x")
        killed = scorer.pool.process_ids
        assert len(killed) == 3  # two and a spare
        for process_id in killed:
            os.kill(process_id, signal.SIGKILL)
        assert is_right(scorer, "x+2", "2+x")
        assert not set(scorer.pool.process_ids) & set(killed)


def test_workers_end_with_the_scorer():
    with Scorer(RewardConfig(workers=2)) as scorer:
        assert is_right(scorer, "x+1", "1+x")
        process_ids = scorer.pool.process_ids
        assert not any(is_gone(process_id) for process_id in process_ids)
    assert len(process_ids) == 3 and all(is_gone(process_id) for process_id in process_ids)


@pytest.mark.parametrize("answer", ["x+1", "9^{9^{9^9}}"], ids=["idle", "busy"])
def test_workers_die_with_a_killed_parent(answer):
    code = f"""
import threading, time
from saei.config import RewardConfig
from saei.reward import Scorer
from tests.test_reward import problem, wrapped
scorer = Scorer(RewardConfig(timeout_s=60.0))
scorer.grade([wrapped("x+2")], [problem("x+3")])
print(scorer.pool.process_ids[0], flush=True)
scorer.grade([wrapped({answer!r})], [problem("x+3")])
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(0.3)
    assert not is_gone(worker)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: is_gone(worker))


def test_a_bug_of_the_grader_stops_the_run(scorer, monkeypatch):
    def broken(answer, problem):
        raise TypeError("a bug")

    monkeypatch.setitem(reward_module.GRADERS, "number", broken)
    with pytest.raises(TypeError, match="a bug"):
        scorer.grade([wrapped("7")], [problem("7", "number")])


def test_a_bug_in_a_worker_stops_the_run_too(monkeypatch):
    real_dumps = json.dumps
    with Scorer(RewardConfig()) as scorer:
        with monkeypatch.context() as patch:
            patch.setattr("saei.graders.pool.json.dumps", lambda task: real_dumps(task | {"gold": 5}))
            with pytest.raises(GraderBug, match="AttributeError"):  # a number has no .translate
                scorer.pool.compare([("x", "y")])
        assert is_right(scorer, "x+1", "1+x")


def test_an_answer_that_kills_its_worker_is_a_counted_crash():
    with Scorer(RewardConfig()) as scorer:
        scorer.pool.compare([("x", "y")])
        waiting, outcomes, attempts = deque(), [None], [0]
        for _ in range(10):  # what the pool does when a worker ends in the middle of task 0
            scorer.pool.start()
            worker = scorer.pool._workers[0]
            worker.ready, worker.task = True, 0
            scorer.pool._lose(worker, waiting, attempts, outcomes)
            if not waiting:
                break
            waiting.clear()
        assert outcomes == [(False, "crash")] and attempts == [3]  # one worker and one spare may die by another's hand
        assert "crash" in GRADE_FAILURES
