"""Benchmarks from files to a summary: the shipped tiny model on real rows, killed and continued; scores by hand; the
judge against a server that lies, fails and hangs.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from saei.benchmarks import BENCHMARKS, mathvista
from saei.benchmarks import judge as judge_module
from saei.benchmarks.decide import decide
from saei.benchmarks.judge import JudgeFailed, make_judge
from saei.benchmarks.record import Kept
from saei.benchmarks.rows import load_items
from saei.benchmarks.run import _budget
from saei.benchmarks.scores import clustered, scored
from saei.cli import BadInput
from saei.config import Config, with_overrides
from saei.evaluate import main
from saei.graders.pool import WorkerPool
from saei.settings.benchmarking import BenchmarkConfig, JudgeConfig

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("SAEI_DATA", ROOT.parent / "shared" / "data"))
real_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets at {DATA}: set SAEI_DATA")


# --- the command -----------------------------------------------------------------------------------------------------


def command(out, *more, names="geometry3k"):
    return [
        "--model", "tiny", "--benchmarks", names, "--benchmark-data", str(DATA), "--out", str(out),
        "--benchmark.limit", "6", "--rollout.batch-rows", "2", "--rollout.max-new-tokens", "16", *more,
    ]  # fmt: skip


def rows_of(folder):
    rows = [row for path in sorted((folder / "items").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: (row["item"], row["decoding"], row["index"]))


@real_data
def test_interrupted_and_continued_equals_straight(tmp_path, capsys, monkeypatch):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert main(command(straight, "--benchmark.samples", "2")) == 0
    out = capsys.readouterr().out
    assert "mean@2" in out and "pass@2" in out and "6 of 601 published items, from " in out
    add, added = Kept.add, []

    def interrupted(self, first, last, rows):
        if len(added) == 1:
            raise KeyboardInterrupt
        added.append(first)
        add(self, first, last, rows)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Kept, "add", interrupted)
        main(command(broken, "--benchmark.samples", "2"))

    def counted(self, first, last, rows):
        added.append(first)
        add(self, first, last, rows)

    monkeypatch.setattr(Kept, "add", counted)
    assert main(command(broken, "--benchmark.samples", "2")) == 0
    assert added == [0, 2, 4]  # nothing twice
    assert len(rows_of(straight / "geometry3k")) == 6 * 3
    assert rows_of(broken / "geometry3k") == rows_of(straight / "geometry3k")
    assert (broken / "summary.json").read_text() == (straight / "summary.json").read_text()


@real_data
@pytest.mark.slow
def test_killed_and_continued_equals_straight(tmp_path):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert main(command(straight)) == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "saei.evaluate", *command(broken)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    items = broken / "geometry3k" / "items"
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end and not list(items.glob("part-*")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, error = process.communicate()
    assert list(items.glob("part-*")), error
    assert main(command(broken)) == 0
    assert rows_of(broken / "geometry3k") == rows_of(straight / "geometry3k")


@real_data
def test_finished_items_need_no_model_and_another_setting_is_refused(tmp_path, monkeypatch, capsys):
    assert main(command(tmp_path)) == 0
    before = rows_of(tmp_path / "geometry3k")

    def load(*_):
        raise AssertionError("loaded")

    monkeypatch.setattr("saei.benchmarks.run.load_policy", load)
    assert main(command(tmp_path)) == 0
    assert rows_of(tmp_path / "geometry3k") == before
    with pytest.raises(BadInput, match=r"differs in max_new_tokens \(16 there, 17 here\); name another folder"):
        main(command(tmp_path, "--rollout.max-new-tokens", "17"))


@real_data
def test_a_judge_may_come_later_and_needs_no_model(tmp_path, monkeypatch, server):
    assert main(command(tmp_path, names="mathvista")) == 0
    before = rows_of(tmp_path / "mathvista")
    open_ones = [row for row in before if row["decided_by"] == "undecided"]
    assert open_ones
    monkeypatch.setattr("saei.benchmarks.run.load_policy", lambda *_: pytest.fail("loaded"))
    server.plan = [says("(A)")] * len(open_ones)
    recording = str(tmp_path / "judge.jsonl")
    judged = ["--judge.mode", "ask", "--judge.url", server.url, "--judge.model", "m", "--judge.file", recording]
    assert main(command(tmp_path, *judged, names="mathvista")) == 0
    after = rows_of(tmp_path / "mathvista")
    assert [row["output"] for row in after] == [row["output"] for row in before]
    assert {row["decided_by"] for row in after if row["item"] in {one["item"] for one in open_ones}} == {"judge"}
    replay = ["--judge.mode", "replay", "--judge.model", "m", "--judge.file", recording]
    assert main(command(tmp_path, *replay, names="mathvista")) == 0 and rows_of(tmp_path / "mathvista") == after
    with pytest.raises(BadInput, match=r"differs in judge.model"):
        main(command(tmp_path, *judged[:-3], "other", names="mathvista"))
    with pytest.raises(BadInput, match=r"differs in judge"):  # nor back to none, whose scores are others
        main(command(tmp_path, names="mathvista"))


def test_settings_without_an_effect_are_refused(capsys):
    for more, sentence in (
        (["--benchmark.limit", "3"], "do nothing without --benchmarks"),
        (["--benchmarks", "mmk12", "--samples", "4"], "do nothing with --benchmarks; write --benchmark.samples"),
        (["--benchmarks", " , "], "benchmarks: none is named; known are mathvista"),
        (["--benchmarks", "mmk12", "--judge.mode", "ask"], "needs --judge.url"),
        (["--benchmarks", "mmk12", "--judge.url", "http://me:pw@host"], "no user or password"),
    ):
        with pytest.raises((BadInput, SystemExit)) as refused:
            main(["--model", "tiny", *more])
        told = " ".join(capsys.readouterr().err.replace("│", " ").split()) + str(refused.value)
        assert sentence in told


@real_data
def test_text_alone_is_asked_and_a_missing_picture_is_an_error_or_counted(tmp_path, capsys):
    with pytest.raises(BadInput, match=r"951 pictures are missing, first of row \d+; .*--benchmark.skip-missing"):
        main(command(tmp_path, "--benchmark.limit", "0", names="hallusionbench"))
    assert main(command(tmp_path, "--benchmark.skip-missing", names="hallusionbench")) == 0
    rows = rows_of(tmp_path / "hallusionbench")
    assert len(rows) == 6 and {row["figure"] for row in rows} == {""}
    assert rows[0]["prompt"].endswith("\\boxed{no}.")
    result = json.loads((tmp_path / "summary.json").read_text())["benchmarks"]["hallusionbench"]
    assert {"aAcc", "qAcc"} <= {score["name"] for score in result["scores"]}
    with pytest.raises(BadInput, match="no item to ask"):
        main(command(tmp_path / "b", "--benchmark.skip-missing", "--benchmark.no-text-only", names="hallusionbench"))


def test_an_item_that_cannot_be_asked_leaves_the_others_their_measures(tmp_path):
    data = tmp_path / "geometry3k"
    data.mkdir()
    (data / "bad.png").write_bytes(b"no picture")
    Image.new("RGB", (56, 56), "white").save(data / "good.png")
    rows = [{"id": i, "problem": "1 + 1?", "answer": "2", "images": [f"{i}.png"]} for i in ("good", "bad")]
    (data / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--benchmark-data", str(tmp_path), "--out", str(tmp_path / "out"), "--benchmark.samples", "4"]
    assert main(["--model", "tiny", "--benchmarks", "geometry3k", *words, "--rollout.max-new-tokens", "4"]) == 0
    result = json.loads((tmp_path / "out" / "summary.json").read_text())["benchmarks"]["geometry3k"]
    assert [score["measure"] for score in result["scores"]] == ["greedy", "mean@4", "pass@2", "pass@4"]
    assert result["status"]["not asked"] == 1 + 4 and result["cut"] == 1 + 4


def test_budgets_below_the_published_ones_are_told():
    config = with_overrides(Config(), {"model.path": "some/model"})
    told = _budget(config)
    assert "data.max_pixels is 28224 and rollout.max_new_tokens is 64" in told
    assert "--data.min-pixels 262144 --data.max-pixels 1000000 --rollout.max-new-tokens 2048" in told
    published = {"data.max_pixels": 1000000, "rollout.max_new_tokens": 2048}
    assert _budget(with_overrides(config, published)) == _budget(Config()) == ""


@real_data
def test_every_benchmark_makes_items_of_the_real_rows():
    settings = BenchmarkConfig(skip_missing=True)
    counts = {}
    for name, benchmark in BENCHMARKS.items():
        if name == "wemath":  # no copy of it is at hand
            continue
        for style in ("noisyrollout", "official"):
            loaded = load_items(name, benchmark, BenchmarkConfig(skip_missing=True, prompts=style), str(DATA))
            assert all(item.prompt and item.gold for item in loaded.items)
            assert all(set(benchmark.breakdown) <= set(item.facts) for item in loaded.items)
        counts[name] = len(loaded.items)
        assert loaded.stamp != load_items(name, benchmark, settings, str(DATA)).stamp  # the prompts differ
    assert counts == {"mathvista": 24, "mathverse": 60, "mathvision": 103, "hallusionbench": 178, "geometry3k": 105,
                      "mmk12": 173}  # fmt: skip


HALLUSION = {
    "category": "VS", "subcategory": "map", "set_id": "0", "sample_note": "", "question_id": "0", "question": "Is it?",
    "gt_answer_details": "Yes.", "gt_answer": "1", "filename": None,
}  # fmt: skip
HUB = {  # name -> split -> text columns as the hub has them, and the column of pictures
    "mathvision": {
        "test": (
            {"id": "1", "question": "q <image1>", "options": ["1", "2"], "image": "images/1.jpg", "answer": "B",
             "solution": None, "level": 3, "subject": "algebra"},
            "decoded_image",
        ),
    },
    "mathvista": {
        "testmini": (
            {"pid": "1", "question": "q", "image": "images/1.jpg", "choices": ["x", "y"], "unit": None, "answer": "x",
             "precision": 1.0, "question_type": "multi_choice", "answer_type": "text", "query": "Hint",
             "metadata": {"source": "GeoQA+", "skills": ["a", "b"], "task": "t"}},
            "decoded_image",
        ),
    },
    "mathverse": {
        "testmini": (
            {"sample_index": "1", "problem_index": "1", "problem_version": "Vision Only", "question": "", "answer": "B",
             "question_type": "multi-choice", "metadata": {"subject": "Plane Geometry", "subfield": "Angle"},
             "query_wo": "direct", "query_cot": "first", "question_for_eval": "q\nChoices:\nA:1\nB:2"},
            "image",
        ),
    },
    "hallusionbench": {
        "image": ({**HALLUSION, "visual_input": "1", "figure_id": "1"}, "image"),
        "non_image": ({**HALLUSION, "visual_input": "0", "figure_id": "0", "image": None}, "image"),
    },
    "geometry3k": {"test": ({"problem": "<image>Find x.", "answer": "8 \\sqrt { 3 }"}, "images")},
    "mmk12": {"test": ({"id": "a", "question": "q\nA. 1\nB. 2", "answer": "B", "subject": "physics"}, "image")},
}  # fmt: skip
EXPECTED = {  # prompt, gold, a fact
    "mathvision": ("q <image1>\n(A) 1\n(B) 2", "B", ("level", "3")),
    "mathvista": ("Hint", "x", ("skills", ("a", "b"))),
    "mathverse": ("first", "B", ("version", "Vision Only")),
    "hallusionbench": (
        "Is it? You final answer can only be \\boxed{yes} or \\boxed{no}.", "1", ("visual_input", "easy"),
    ),
    "geometry3k": ("Find x.", "8 \\sqrt { 3 }", None),
    "mmk12": ("q\nA. 1\nB. 2", "B", ("subject", "physics")),
}  # fmt: skip


@pytest.mark.parametrize("name", HUB)
def test_tables_with_the_hubs_columns_are_read(tmp_path, name):
    from datasets import Dataset, Image, List
    from PIL import Image as Pictures

    picture = Pictures.new("RGB", (40, 40), "white")
    (tmp_path / name).mkdir()
    for split, (texts, pictured) in HUB[name].items():
        held = {pictured: [picture] if pictured == "images" else picture}
        table = Dataset.from_list([{**held, **texts}])
        table = table.cast_column(pictured, List(Image()) if pictured == "images" else Image())
        table.to_parquet(tmp_path / name / f"{split}-00000-of-00001.parquet")
    loaded = load_items(name, BENCHMARKS[name], BenchmarkConfig(), str(tmp_path))
    assert [len(loaded.pictures(number)) for number in range(len(loaded.items))] == [1, 0][: len(HUB[name])]
    assert isinstance(loaded.pictures(0)[0], bytes)
    prompt, gold, fact = EXPECTED[name]
    item = loaded.items[0]
    assert (item.prompt, item.gold) == (prompt, gold)
    assert fact is None or item.facts[fact[0]] == fact[1]


def test_a_benchmark_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no mathvista; looked for testmini_with_images.jsonl"):
        load_items("mathvista", BENCHMARKS["mathvista"], BenchmarkConfig(), str(tmp_path))
    with pytest.raises(ValueError, match=r"no mathvision; looked for test.jsonl, test.json, test\*.parquet"):
        load_items("mathvision", BENCHMARKS["mathvision"], BenchmarkConfig(split="test"), str(tmp_path))


def test_a_benchmark_without_hub_and_folder_names_its_own_flag(monkeypatch):
    def offline(*_):
        raise ValueError("it cannot be loaded. Without a hub, point --data.path at a copy of its files")

    monkeypatch.setattr("saei.benchmarks.rows.open_table", offline)
    with pytest.raises(ValueError, match=r"be loaded. Without a hub: --benchmark-data DIR, .* DIR/mmk12 or") as told:
        load_items("mmk12", BENCHMARKS["mmk12"], BenchmarkConfig(), "")
    assert "--data.path" not in str(told.value)


# --- scores ----------------------------------------------------------------------------------------------------------


def test_an_interval_is_that_of_clusters():
    from scipy.stats import ttest_1samp

    alone = clustered([1.0, 0.0, 1.0, 1.0, 0.0], list("abcde"), measure="greedy", name="overall")
    expected = ttest_1samp([1, 0, 1, 1, 0], 0).confidence_interval(0.95)
    assert alone.value == 0.6 and alone.high == 1.0 and alone.low == pytest.approx(max(0, expected.low))
    # every item twice: the same mean and the same interval, not a narrower one
    twice = clustered([1.0, 0.0, 1.0, 1.0, 0.0] * 2, list("abcde") * 2, measure="greedy", name="overall")
    assert twice.low == pytest.approx(alone.low) and (twice.n, twice.clusters) == (10, 5)
    assert clustered([1.0], ["a"], measure="m", name="n").low is None
    nothing = clustered([0.0] * 10, list("abcdefghij"), measure="m", name="n")
    assert nothing.low == 0.0 and nothing.high == pytest.approx(0.3085, abs=1e-4)  # Clopper-Pearson of 0 of 10


def test_scores_are_by_fact_and_pass_at_k_is_unbiased():
    benchmark = BENCHMARKS["mathvision"]
    items = [
        benchmark.item({"id": i, "question": "q", "options": [], "answer": "1", "level": 1 + i % 2, "subject": "s"}, "")
        for i in range(2)
    ]
    marks = {"0": [True, False, False, False], "1": [True, True, False, False]}
    rows = [
        {"item_id": item_id, "decoding": "sampled", "index": i, "right": mark, "figure": item_id}
        for item_id, own in marks.items() for i, mark in enumerate(own)
    ]  # fmt: skip
    found = {(score.measure, score.name): score.value for score in scored(benchmark, items, rows)}
    assert found["mean@4", "overall"] == pytest.approx(3 / 8)
    assert found["mean@4", "level: 1"] == 0.25 and found["mean@4", "level: 2"] == 0.5
    assert found["pass@2", "overall"] == pytest.approx((1 / 2 + 5 / 6) / 2)  # 1 - C(3,2)/C(4,2), 1 - C(2,2)/C(4,2)
    assert found["pass@4", "overall"] == 1.0 and ("greedy", "overall") not in found


# --- the judge -------------------------------------------------------------------------------------------------------


class Endpoint(BaseHTTPRequestHandler):
    """Answers with the next of `server.plan`: (status, body), or seconds to sleep."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.seen.append((self.headers.get("authorization"), json.loads(body)))
        status, reply = self.server.plan.pop(0)
        self.send_response(status)
        self.end_headers()
        try:
            for piece in reply if isinstance(reply, list) else [reply]:
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(0.2 if isinstance(reply, list) else 0)
        except OSError:
            return

    def log_message(self, *_):
        return


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.plan, server.seen = [], []
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def says(text):
    return 200, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def test_the_judge_is_asked_again_recorded_and_replayed_without_its_key(server, tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    server.plan = [(503, b"busy"), (429, b"slow down"), says("C")]
    pauses = []
    live = JudgeConfig(mode="ask", url=server.url, model="m", file=str(tmp_path / "r.jsonl"), key_variable="JUDGE_KEY")
    ask = make_judge(live, pause=pauses.append)
    assert ask("which?") == "C" and ask("which?") == "C"  # the second from the recording
    assert len(server.seen) == 3 and pauses == [1.0, 2.0]
    assert server.seen[0][0] == "Bearer sk-secret" and server.seen[0][1]["temperature"] == 0
    assert "secret" not in (tmp_path / "r.jsonl").read_text()
    with open(tmp_path / "r.jsonl", "a") as file:
        file.write('{"key": "cut by a ki')
    replay = make_judge(JudgeConfig(mode="replay", model="m", file=str(tmp_path / "r.jsonl")))
    assert replay("which?") == "C"
    with pytest.raises(JudgeFailed, match=r"has no reply to request .*record it with --judge.mode ask"):
        replay("another")
    make_judge(live)  # drops the line that was cut
    assert (tmp_path / "r.jsonl").read_text().count("\n") == 1 and (tmp_path / "r.jsonl").read_text().endswith("\n")


def test_a_judge_that_refuses_lies_or_drips_is_an_error_that_hides_the_key(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    config = JudgeConfig(mode="ask", url=server.url, model="m", attempts=2, timeout_s=0.3)
    ask = make_judge(config, pause=lambda _: None)
    server.plan = [(401, b"bad key sk-secret")]
    with pytest.raises(JudgeFailed, match="status 401") as refused:
        ask("q")
    assert "secret" not in str(refused.value)
    for reply in (b"{}", b"[1]", b"\xff", b'{"choices": [{"message": 3}]}'):
        server.plan = [(200, reply)]
        with pytest.raises(JudgeFailed, match="no chat completion"):
            ask("q")
    monkeypatch.setattr(judge_module, "LARGEST_REPLY", 10)
    server.plan = [(200, b"x" * 1000)]
    with pytest.raises(JudgeFailed, match="more than 10 bytes"):
        ask("q")
    server.plan = [(200, [b" "] * 8)] * 2  # a byte now and then, for ever
    with pytest.raises(JudgeFailed, match="TimeoutError"):
        ask("q")


def test_a_recording_that_was_edited_is_refused(tmp_path):
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps({"key": "0" * 64, "request": {"model": "m"}, "reply": "1"}) + "\n")
    with pytest.raises(BadInput, match="line 1: the key is not that of its request"):
        make_judge(JudgeConfig(mode="replay", model="m", file=str(file)))
    with pytest.raises(BadInput, match="does not exist"):
        make_judge(JudgeConfig(mode="replay", model="m", file=str(tmp_path / "none.jsonl")))
    assert make_judge(JudgeConfig()) is None


def test_the_judge_decides_what_rules_leave_and_is_named():
    row = {"pid": 1, "query": "q", "choices": ["3", "12"], "answer": "12", "question_type": "multi_choice",
           "answer_type": "text"}  # fmt: skip
    vista = mathvista.item(row, "")
    asked = []

    def ask(prompt):
        asked.append(prompt)
        return "(B)"

    pool = WorkerPool(1, 2.0)
    try:
        texts = ["\\boxed{A}", "Twelve, I think."]
        alone = decide(mathvista.MATHVISTA, texts, [vista] * 2, pool)
        helped = decide(mathvista.MATHVISTA, texts, [vista] * 2, pool, ask=ask)
        assert [(one.right, one.decided_by) for one in alone] == [(False, "boxed"), (False, "undecided")]
        assert [(one.right, one.decided_by) for one in helped] == [(False, "boxed"), (True, "judge")]
        assert len(asked) == 1 and helped[1].judge_reply == "(B)"
        always = decide(mathvista.MATHVISTA, texts, [vista] * 2, pool, ask=ask, ask_always=True)
        assert [one.decided_by for one in always] == ["judge", "judge"]
        verse = BENCHMARKS["mathverse"]
        free = verse.item(
            {"sample_index": 1, "question": "q", "answer": "a half", "question_type": "free-form"}, "official"
        )
        for reply, right, by in (("1", True, "judge"), ("0", False, "judge"), ("perhaps", False, "undecided")):
            (one,) = decide(verse, ["\\boxed{one of two}"], [free], pool, ask=lambda _, reply=reply: reply)
            assert (one.right, one.decided_by) == (right, by)
        blind = {"category": "VS", "subcategory": "map", "set_id": "0", "figure_id": "0", "question_id": "0",
                 "gt_answer": "1", "visual_input": "0", "question": "a?"}  # fmt: skip
        bench = BENCHMARKS["hallusionbench"]
        for visual, right in (("0", True), ("1", False)):  # unclear is right where there is nothing to see
            item = bench.item({**blind, "visual_input": visual}, "official")
            (one,) = decide(bench, ["I cannot tell."], [item], pool, ask=lambda _: "Unclear")
            assert (one.right, one.decided_by) == (right, "judge")
    finally:
        pool.close()
