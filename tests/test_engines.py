"""The protocol with an engine in another process: what is sent, what is refused, how it ends."""

import base64
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from saei.cli import BadInput
from saei.config import Config, with_overrides
from saei.engines import served
from saei.engines.frames import Ended, Nonsense, Silent, receive, send
from saei.engines.options import engine_environment, engine_options
from saei.engines.process import EngineLost, EngineRefused
from saei.engines.served import ServedEngine
from saei.engines.wire import checked_completions, messages, png, unexpanded
from saei.types import Prompt
from tests.engine_models import RULE, request, rote_engine, rote_policy

SEEDS = [[0, 3]]


def completions_of(engine: ServedEngine) -> list:
    return engine.sample(rote_policy(), [request()], SEEDS, RULE)


def alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(process_id: int) -> None:
    limit = time.monotonic() + 20
    while alive(process_id) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not alive(process_id)


def test_a_message_arrives_whole_and_silence_and_ends_are_noticed():
    one, other = socket.socketpair()
    with one, other:
        waits = []
        send(one, {"kind": "sample", "text": "ü" * 5_000}, 5.0)
        assert receive(other, 5.0)["text"] == "ü" * 5_000
        with pytest.raises(Silent):
            receive(other, 1.5, lambda: waits.append(1))
        assert waits
        with pytest.raises(Silent):  # nobody takes it
            send(other, {"text": "x" * 5_000_000}, 0.2)
        one.sendall(struct.pack(">Q", 10) + b"{")
        one.close()
        with pytest.raises(Ended):
            receive(other, 5.0)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"Loading: 100%\n", "was announced"),
        (struct.pack(">Q", 3) + b"abc", "no JSON"),
        (struct.pack(">Q", 2) + b"[]", "is a JSON object"),
        (struct.pack(">Q", 200_000) + b"[" * 200_000, "no JSON"),
    ],
)
def test_bytes_that_are_no_message_are_named(raw, said):
    one, other = socket.socketpair()
    with one, other:
        one.sendall(raw)
        with pytest.raises(Nonsense, match=said):
            receive(other, 5.0)


def good() -> dict:
    two = [{"tokens": [1, 7], "logprobs": [-0.5, -0.1], "finish": "stop"} for _ in range(2)]
    return {"results": [{"prompt": [2, 3], "completions": two}]}


def test_a_good_reply_is_taken_token_for_token():
    reply = good()
    reply["results"][0]["completions"][1] = {
        "tokens": [1, 2, 3, 4],
        "logprobs": [None, -1, 0, -2.5],
        "finish": "length",
    }
    ((first, second),) = checked_completions(reply, [request()], RULE)
    assert first.token_ids == (1, 7) and first.logprobs == (-0.5, -0.1) and first.finished
    assert second.token_ids == (1, 2, 3, 4) and not second.finished
    assert np.isnan(second.logprobs[0]) and second.logprobs[1:] == (-1, 0, -2.5)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("tokens", [1, 2, 3, 4, 7], "5 tokens came, and 1 to 4"),
        ("tokens", [], "0 tokens came"),
        ("tokens", "17", "no list of tokens came"),
        ("tokens", [1, 10], "10 came as a token id"),
        ("tokens", [-1, 7], "-1 came as a token id"),
        ("tokens", [True, 7], "True came as a token id"),
        ("tokens", [1.0, 7], "1.0 came as a token id"),
        ("tokens", [9, 7], "token 9 came, which is suppressed"),
        ("tokens", [7, 1], r"with end tokens at \[0\]"),
        ("tokens", [7, 7], r"with end tokens at \[0, 1\]"),
        ("tokens", [1, 2], r"2 tokens with end tokens at \[\]"),
        ("logprobs", [-0.5], "every token has a log-prob"),
        ("logprobs", [-0.5, 0.7], "0.7 came as a log-prob"),
        ("logprobs", [-0.5, "-1"], "-1 came as a log-prob"),
        ("finish", "abort", "finished by 'abort'"),
    ],
)
def test_a_completion_that_cannot_be_is_refused(name, value, said):
    reply = good()
    reply["results"][0]["completions"][1] = {**reply["results"][0]["completions"][1], name: value}
    with pytest.raises(EngineRefused, match=said):
        checked_completions(reply, [request()], RULE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda reply: reply["results"].append(reply["results"][0]), "2 results came for 1 requests"),
        (lambda reply: reply["results"][0]["completions"].pop(), "1 completions came for 2 completions of problem p"),
        (
            lambda reply: reply["results"][0].update(prompt=[2, 9, 9, 3]),
            "read 4 prompt tokens where",
        ),
        (lambda reply: reply["results"][0].pop("prompt"), "read no prompt tokens"),
        (lambda reply: reply.update(results=None), "none results came"),
        (lambda reply: reply["results"].__setitem__(0, [1]), "a result is an object"),
        (lambda reply: reply["results"][0]["completions"].__setitem__(0, 5), "a completion is an object"),
    ],
)
def test_a_reply_of_another_shape_is_refused(change, said):
    reply = good()
    change(reply)
    with pytest.raises(EngineRefused, match=said):
        checked_completions(reply, [request()], RULE)


def test_an_image_stands_in_the_prompt_once_and_travels_bit_for_bit():
    image = torch.randint(0, 256, (3, 5, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wider = torch.zeros(3, 5, 3, dtype=torch.uint8)
    # an image is shown as 8 and a 9 for each column; they stand side by side
    sent = request((1, 8, 9, 9, 8, 9, 9, 9, 2, 3), count=2, images=(image, wider))
    ((part, message),) = messages([sent], [[5, 6]], RULE, rote_policy())
    assert list(part) == [sent]
    assert message["requests"] == [{"prompt": [1, 9, 9, 2, 3], "images": [*message["images"]], "seeds": [5, 6]}]
    assert [*message["images"].values()] == [png(image), png(wider)]
    read = np.array(Image.open(io.BytesIO(base64.b64decode(png(image)))))
    assert torch.equal(torch.from_numpy(read).permute(2, 0, 1), image)


def test_a_prompt_that_lacks_what_stands_for_an_image_is_refused():
    image = torch.zeros(3, 5, 2, dtype=torch.uint8)
    with pytest.raises(EngineRefused, match="lacks the 3 tokens of one of its 2 images"):
        unexpanded(rote_policy(), Prompt(problem_id="p", token_ids=(1, 8, 9, 9, 2), images=(image, image)))


def test_an_engine_that_sees_other_pixels_is_refused(tmp_path):
    image = torch.full((3, 1, 2), 100, dtype=torch.uint8)
    policy, prompt = rote_policy(), Prompt(problem_id="p", token_ids=(1, 8, 9, 9), images=(image,))
    policy.codec = SimpleNamespace(patchify=lambda image: (image.float() / 255 - 0.5).reshape(1, -1) / 0.27)

    def reply(values: np.ndarray) -> dict:
        encoded = base64.b64encode(values.astype(np.float32).tobytes()).decode()
        return {"prompt": [1, 8, 9, 9], "shape": list(values.shape), "values": encoded}

    ours = policy.codec.patchify(image).numpy()
    with closing(rote_engine(tmp_path)) as engine:
        assert engine.check_pixels(policy, prompt, (image,), reply(ours)) == 0
        one_level = ours.copy()
        one_level[0, 3] += 1 / 255 / 0.27
        for wrong, said in [
            (reply(one_level), r"differ by 0\.0145"),
            (reply(ours[:, :4]), r"of shape \(1, 4\) .* \(1, 6\)"),
            (reply(ours * np.nan), "of shape"),
            ({**reply(ours), "values": "no"}, "sent no pixel values"),
            ({**reply(ours), "prompt": [1, 8, 9, 9, 9, 9]}, "read 6 prompt tokens"),
        ]:
            with pytest.raises(EngineRefused, match=said):
                engine.check_pixels(policy, prompt, (image,), wrong)


def test_weights_are_handed_over_and_what_is_left_of_older_ones_goes(tmp_path):
    with closing(rote_engine(tmp_path)) as engine:
        policy = rote_policy()
        engine.hand_over(policy, 0)
        assert engine.name == "rote 1"
        ((first, second),) = completions_of(engine)
        assert (first.token_ids, second.token_ids) == ((1, 7), (4, 7))  # by seeds 0 and 3
        policy.weights = 5
        engine.hand_over(policy, 2)
        (folder,) = tmp_path.iterdir()
        assert (folder / "weights-2" / "model.safetensors").read_text() == "5"
        assert not (folder / "weights-0" / "model.safetensors").exists()
        assert engine.version == 2
        completions_of(engine)
    assert list(tmp_path.iterdir()) == []


def test_completions_of_old_weights_are_refused(tmp_path):
    with closing(rote_engine(tmp_path, fault="keeps the old weights")) as engine:
        engine.hand_over(rote_policy(), 3)
        with pytest.raises(EngineRefused, match="weights number 3, and the policy is at 4"):
            engine.hand_over(rote_policy(), 4)


def test_an_engine_that_dies_once_is_started_again_and_asked_the_same(tmp_path):
    with closing(rote_engine(tmp_path, fault="dies once", mark=tmp_path / "mark")) as engine:
        engine.log = (said := []).append
        engine.hand_over(rote_policy(), 6)
        before = engine.process_id
        ((first, second),) = completions_of(engine)
        assert (first.token_ids, second.token_ids) == ((1, 7), (4, 7))
        assert engine.process_id != before and engine.version == 6
        assert "ended with code 3" in said[0] and "out of memory, said the engine" in said[0]


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("dies", EngineLost, r"code 3(.|\n)*out of memory, said the engine(.|\n)*engine_restarts \(0\) are used up"),
        ("hangs", EngineLost, "said nothing for 1.5 s"),
        ("raises", EngineRefused, "no room for the cache"),
        ("babbles", EngineRefused, "does not keep to the protocol: .* was announced"),
        ("dies at the start", EngineLost, "no kernel image is available"),
    ],
)
def test_an_engine_that_fails_ends_with_a_sentence_and_leaves_no_process(tmp_path, fault, error, said):
    engine = rote_engine(tmp_path, fault=fault, mark=tmp_path / "mark", timeout_s=1.5, restarts=0)
    engine._rollout = replace(engine._rollout, engine_timeout_s=20.0)  # a loaded machine may be slow to start it
    with closing(engine), pytest.raises(error, match=said):
        engine.hand_over(rote_policy(), 0)
        engine._rollout = replace(engine._rollout, engine_timeout_s=1.5 if fault == "hangs" else 20.0)
        completions_of(engine)
    assert engine._process is None


def test_progress_gives_an_engine_time(tmp_path):
    with closing(rote_engine(tmp_path, fault="is slow")) as engine:
        engine.hand_over(rote_policy(), 0)
        engine._rollout = replace(engine._rollout, engine_timeout_s=1.2)  # 1.6 s in all, reported four times
        assert len(completions_of(engine)[0]) == 2


def test_a_python_that_is_not_there_is_named(tmp_path):
    with closing(rote_engine(tmp_path)) as engine:
        engine._rollout = replace(engine._rollout, engine_python="/nowhere/python")
        with pytest.raises(BadInput, match=r"rollout\.engine_python '/nowhere/python' cannot be started"):
            engine.hand_over(rote_policy(), 0)


def test_a_python_without_the_engine_is_told_in_one_sentence_where_to_get_one(tmp_path, monkeypatch):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    python = str(tmp_path / "bare" / "bin" / "python")
    with closing(rote_engine(tmp_path)) as engine:
        engine._rollout = replace(engine._rollout, engine="vllm", engine_python=python)
        monkeypatch.setitem(served.WORKERS, "vllm", served.VLLM)
        with pytest.raises(BadInput, match="that Python has no vllm: make vllm-env makes such an") as told:
            engine.hand_over(rote_policy(), 0)
        assert "\n" not in str(told.value)
        assert engine._restarts == engine._rollout.engine_restarts


def test_closing_ends_what_the_engine_started_too(tmp_path):
    child = tmp_path / "child"
    with closing(rote_engine(tmp_path / "run", child=child)) as engine:
        engine.hand_over(rote_policy(), 0)
        process_id = int(child.read_text())
        assert alive(process_id)
    wait_until_gone(process_id)


def test_a_killed_trainer_takes_its_engine_and_the_weights_with_it(tmp_path):
    child = tmp_path / "child"
    trainer = subprocess.Popen(
        [sys.executable, "-m", "tests.engine_trainer", str(tmp_path / "run"), str(child)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert trainer.stdout is not None
    engine, grandchild = int(trainer.stdout.readline()), int(child.read_text())
    assert alive(engine) and alive(grandchild) and list((tmp_path / "run").iterdir())
    os.kill(trainer.pid, signal.SIGKILL)
    trainer.communicate()
    wait_until_gone(engine)
    wait_until_gone(grandchild)
    assert list((tmp_path / "run").iterdir()) == []


def test_options_are_json_or_text_and_the_engine_sees_its_devices_and_no_rank(monkeypatch):
    assert engine_options(["gpu_memory_utilization=0.4", "enforce_eager=true", "kv_cache_dtype=fp8"]) == {
        "gpu_memory_utilization": 0.4,
        "enforce_eager": True,
        "kv_cache_dtype": "fp8",
    }
    monkeypatch.setenv("RANK", "1")
    environment = engine_environment(("4,5", "6,7"), 1)
    assert environment["CUDA_VISIBLE_DEVICES"] == "6,7" and "RANK" not in environment
    with pytest.raises(ValueError, match="has 1 entries, and process 1 of this trial needs one"):
        engine_environment(("0",), 1)


VLLM = {"rollout.engine": "vllm", "rollout.engine_python": "python"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"rollout.engine": "vllm"}, "name its Python"),
        ({**VLLM, "view.name": "text_embedding"}, "moves embeddings"),
        ({**VLLM, "model.dtype": "float64"}, "does not compute in model.dtype float64"),
        ({**VLLM, "rollout.engine_options": ("dtype=half",)}, "may not set dtype"),
        ({**VLLM, "rollout.engine_options": ("0.4",)}, "read name=value"),
        ({**VLLM, "eval.engine": "vllm", "rollout.engine_sync_every": 2}, "hands over later"),
        ({"loss.engine_correction": "token_truncated"}, "does nothing with rollout.engine transformers"),
        ({"rollout.engine_sync_every": 2}, "does nothing with rollout.engine transformers"),
        ({**VLLM, "loss.engine_cap": 3.0}, "does nothing with loss.engine_correction none"),
        (
            {**VLLM, "loss.engine_correction": "token_truncated", "rollout.temperature": 0.8, "rollout.top_p": 0.9},
            "would correct for rollout.top_p 0.9 too",
        ),
    ],
)
def test_a_setting_that_an_engine_cannot_do_is_refused(overrides, said):
    with pytest.raises(ValueError, match=said):
        with_overrides(Config(), overrides)
