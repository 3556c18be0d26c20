"""Every check of the doctor: green on the shipped model, red on a fault planted for it; the exit code says so."""

import contextlib
import json
import shutil
import sys
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import saei.doctor.memory as memory
import saei.doctor.resume as resume
from saei.config import Config, with_overrides
from saei.decoder import RowDecoder
from saei.doctor import CHECKS, Patient
from saei.doctor.__main__ import main
from saei.doctor.examine import examine
from saei.pixels import ImageCodec
from saei.policy import Policy, load_policy
from saei.views import climb
from tests.family_models import BUILDERS, build

SMALL = {"rollout.n_clean": 3, "rollout.max_new_tokens": 48, "threads": 1}


@pytest.fixture(scope="module")
def policy():
    return load_policy(Config().model, Config().data)


@pytest.fixture
def patient(policy, tmp_path):
    return made(policy, tmp_path)


def made(policy, folder, **settings):
    config = with_overrides(Config(), {**SMALL, "out": str(folder / "run"), **settings})
    found = Patient(config=config, problems_wanted=2, device_gb=64.0)
    if policy is not None:
        found.__dict__["policy"] = policy
    return found


def finding(patient, name):
    (found,) = examine(patient, [name])
    return found


def is_red(patient, name, figure, cure=""):
    found = finding(patient, name)
    assert found.status == "fail", found
    assert figure in found.figure, found.figure
    assert found.cure and cure in found.cure, found.cure
    return True


def folder_of(place, train, test):
    """A local data set: rows of (figure number, question, answer)."""
    for split, rows in (("train", train), ("validation", [(90, "v?", "1")]), ("test", test)):
        lines = []
        for number, (figure, question, answer) in enumerate(rows):
            levels = np.full((56, 56, 3), figure, dtype=np.uint8)
            Image.fromarray(levels).save(place / f"{figure}.png")
            row = {"id": f"{split}{number}", "image": f"{figure}.png", "question": question, "answer": answer}
            lines.append(json.dumps(row))
        (place / f"{split}.jsonl").write_text("\n".join(lines))
    return {"data.source": "local", "data.path": str(place), "rollout.problems_per_step": 2}


# --- green ------------------------------------------------------------------------------------------------------------


def test_the_shipped_model_passes_every_check_and_says_what_was_not_run(patient):
    found = {one.check: one for one in examine(patient)}
    assert list(found) == list(CHECKS)
    assert {name: one.figure for name, one in found.items() if one.status == "fail"} == {}
    assert [name for name, one in found.items() if one.status == "not run"] == ["cluster"]
    assert all(one.figure for one in found.values())
    assert "1,813,344 parameters" in found["model"].figure
    assert "4 completions in 1 packed passes" in found["packed"].figure
    assert "bit for bit" in found["resume"].figure


def test_the_checks_leave_the_weights_as_they_were(patient, policy):
    before = policy.checksum()
    list(examine(patient, ["attack", "resume"]))
    assert policy.checksum() == before
    assert all(parameter.requires_grad for parameter in policy.model.parameters())


@pytest.mark.parametrize(
    "settings",
    [{"model.freeze_vision": True, "model.gradient_checkpointing": True}, {"model.lora_rank": 4}],
    ids=["recipe", "adapter"],
)
def test_bfloat16_weights_with_master_copies_resume_and_the_model_keeps_its_gradients(tmp_path, settings):
    narrow = {"model.dtype": "bfloat16", "optim.master_dtype": "float32", "rollout.max_new_tokens": 8}
    patient = made(None, tmp_path, **narrow, **settings)
    patient.problems_wanted = 1
    for found in examine(patient, ["resume", "resume"]):
        assert "bit for bit" in found.figure, found
    weight = next(p for p in patient.policy.model.parameters() if p.requires_grad)
    weight.sum().backward()
    assert weight.grad is not None


def test_a_master_copy_that_does_not_come_back_is_red(tmp_path, monkeypatch):
    narrow = {"model.dtype": "bfloat16", "optim.master_dtype": "float32", "rollout.max_new_tokens": 8}
    load = resume.load_checkpoint

    def rounded(folder, model, optimizer, **names):
        load(folder, model, optimizer, **names)
        for parameter in model.parameters():
            parameter.data.copy_(parameter.data.bfloat16())

    monkeypatch.setattr(resume, "load_checkpoint", rounded)
    assert is_red(made(None, tmp_path, **narrow), "resume", "saved,", "the weights that come back are others")


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_a_tiny_random_model_of_every_family_passes_all_but_that_it_never_ends(name, tmp_path):
    settings = {"model.path": str(build(name, tmp_path / name)), "rollout.n_view": 2, "rollout.max_new_tokens": 16}
    found = {one.check: one for one in examine(made(None, tmp_path, **settings))}
    assert [check for check, one in found.items() if one.status == "fail"] == ["budget"]
    assert "completions cut" in found["budget"].figure
    assert [check for check, one in found.items() if one.status == "not run"] == ["cluster"]


# --- red --------------------------------------------------------------------------------------------------------------


def test_a_model_that_does_not_load_is_red_and_what_rests_on_it_is_not_run(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    patient = made(None, tmp_path, **{"model.path": str(tmp_path / "model")})
    assert is_red(patient, "model", "its model type is bert")
    assert finding(patient, "packed").status == "not run"
    assert "see the check model" in finding(patient, "packed").figure


def test_problems_that_do_not_load_are_red(policy, tmp_path):
    patient = made(policy, tmp_path, **{"data.source": "local", "data.path": str(tmp_path / "nowhere")})
    assert is_red(patient, "data", "must be a folder", "python -m saei.data")
    assert finding(patient, "placeholders").status == "not run"


def test_a_training_split_smaller_than_a_step_is_red(policy, tmp_path):
    settings = folder_of(tmp_path, [(1, "a?", "1")], [(2, "b?", "2")])
    assert is_red(made(policy, tmp_path, **settings), "data", "train 1", "--rollout.problems-per-step 1")


def test_a_gold_answer_that_nothing_can_equal_is_red(policy, tmp_path):
    settings = folder_of(tmp_path, [(1, "a?", "1"), (2, "b?", " ")], [(3, "c?", "2")])
    assert is_red(made(policy, tmp_path, **settings), "gold", "train 1/2, validation 1/1, test 1/1; first train1")


def test_a_problem_in_two_splits_is_red_and_a_shared_figure_is_counted(policy, tmp_path):
    settings = folder_of(tmp_path, [(1, "a?", "1"), (2, "b?", "2")], [(1, "other?", "4"), (2, "b?", "2")])
    patient = made(policy, tmp_path, **settings)
    assert is_red(patient, "overlap", "test: 2 of 2 with a figure of train, 1 the same problem", "drop-shared-figures")


def test_a_placeholder_too_many_is_red(patient, monkeypatch):
    tokens = ImageCodec.tokens
    monkeypatch.setattr(ImageCodec, "tokens", lambda self, image: tokens(self, image) + 1)
    assert is_red(patient, "placeholders", "2 of 2 prompts differ")


def test_pictures_read_as_text_are_red(patient, policy, monkeypatch):
    monkeypatch.setattr(policy.model.config, "image_token_id", 7)
    assert is_red(patient, "token_types", "positions of 2 of 2 prompts", "mm_token_type_ids")


def test_other_normalisation_than_the_processors_is_red(patient, policy, monkeypatch):
    monkeypatch.setattr(policy, "codec", replace(policy.codec, mean=(0.5, 0.5, 0.5)))
    assert is_red(patient, "codec", "largest difference 0.3")


def test_completions_that_see_each_other_are_red(patient, monkeypatch):
    def causal(model, batch, device):
        length = len(batch.token_ids)
        return torch.ones(length, length, dtype=torch.bool).tril()[None, None]

    monkeypatch.setattr("saei.scoring.packed_mask", causal)
    assert is_red(patient, "packed", "largest difference", "see each other")


def test_a_sampler_one_position_off_is_red(patient, monkeypatch):
    begin = RowDecoder.__init__

    def late(self, *args):
        begin(self, *args)
        self._position = self._position + 5

    monkeypatch.setattr(RowDecoder, "__init__", late)
    assert is_red(patient, "sampler", "differs, its log-probs by", "positions of the sampler")


def test_an_attack_that_goes_down_is_red(patient, monkeypatch):
    monkeypatch.setitem(climb.DIRECTIONS, "ascend", -1.0)
    assert is_red(patient, "attack", "0 the right way", "other way")


def test_an_attack_that_moves_at_step_zero_is_red(patient, monkeypatch):
    egas = sys.modules["saei.views.egas"]  # the package has a function of that name
    monkeypatch.setattr(egas, "rounded", lambda *args: tuple(255 - image for image in climb.rounded(*args)))
    monkeypatch.setattr("saei.make_view.check_budget", lambda *_: None)
    assert is_red(patient, "attack", "with step 0 the image moved")


def test_an_attack_that_leaves_the_weights_without_gradient_is_red(patient, policy, monkeypatch):
    @contextlib.contextmanager
    def frozen(self):
        self.model.requires_grad_(False)
        yield

    monkeypatch.setattr(Policy, "frozen", frozen)
    try:
        assert is_red(patient, "attack", "requires_grad other than it was")
    finally:
        policy.model.requires_grad_(True)


@pytest.mark.parametrize(
    ("lost", "figure"), [("optimizer", "the next update is another"), ("model", "saved,")], ids=["optimizer", "weights"]
)
def test_a_checkpoint_that_does_not_come_back_whole_is_red(patient, monkeypatch, lost, figure):
    load = resume.load_checkpoint

    def half(folder, model, optimizer, **names):
        kept = {name: p.detach().clone() for name, p in model.named_parameters()}
        load(folder, model, torch.optim.AdamW(model.parameters()) if lost == "optimizer" else optimizer, **names)
        if lost == "model":
            model.load_state_dict(kept, strict=False)

    monkeypatch.setattr(resume, "load_checkpoint", half)
    assert is_red(patient, "resume", figure, "do not start a run")


def test_a_model_whose_optimizer_one_gpu_cannot_hold_is_not_called_broken(patient, monkeypatch):
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(resume, "save_checkpoint", full)
    found = finding(patient, "resume")
    assert found.status == "not run" and "this GPU alone cannot hold" in found.figure


def test_a_completion_longer_than_the_context_is_red(policy, tmp_path):
    patient = made(policy, tmp_path)
    list(patient.groups)  # sampled at the short length
    patient.config = with_overrides(patient.config, {"rollout.max_new_tokens": 5000})
    assert is_red(patient, "budget", "of 4096", "--rollout.max-new-tokens 40")


def test_completions_that_are_cut_are_red(policy, tmp_path):
    patient = made(policy, tmp_path, **{"rollout.max_new_tokens": 2})
    assert is_red(patient, "budget", "6 of 6 completions cut", "--rollout.max-new-tokens 4")


def test_a_full_disk_is_red(patient, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    assert is_red(patient, "disk", "1.0 MB free", "--checkpoint.keep 1")


def test_a_device_too_small_for_the_plan_is_red(patient):
    patient.device_gb = 0.5
    assert is_red(patient, "memory", "(reckoned, not measured), of 0.5 GiB", "--model.gradient-checkpointing; or")


def test_a_run_that_shares_its_weights_says_which_flags_are_missing_where_one_device_is_too_small(
    policy, tmp_path, monkeypatch
):
    patient = made(policy, tmp_path, **{"distributed.strategy": "shard"})
    patient.device_gb = 0.5
    assert is_red(patient, "memory", "of 0.5 GiB (--gpu-gb)", "say which GPUs will share this run")
    assert finding(patient, "memory").cure.endswith("such as --gpus 8")
    patient.processes = 2  # all was said, and it is too small
    assert is_red(patient, "memory", "of 0.5 GiB (--gpu-gb), on each of 2", "more GPUs")
    monkeypatch.setattr(memory, "_device", lambda _: (0.5, "free in this machine"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    patient.processes, patient.device_gb = 1, None
    assert finding(patient, "memory").cure.endswith("such as --gpus 8 --gpu-gb 80")
    patient.device_gb, patient.processes = 64.0, 1
    monkeypatch.undo()
    assert finding(patient, "memory").status == "pass"


def test_a_profile_with_an_unknown_key_is_red_and_a_sound_one_green(patient, tmp_path):
    profile = tmp_path / "cluster.toml"
    profile.write_text('partiton = "gpu"\ntime = "08:00:00"\n')
    patient.cluster = profile
    assert is_red(patient, "cluster", "unknown key partiton: did you mean partition?", "slurm/README.md")
    profile.write_text('gpus = 8\ntime = "08:00:00"\n')
    found = finding(patient, "cluster")
    assert found.status in ("pass", "fail")  # a Slurm that is here may know no such node
    assert "unknown key" not in found.figure


def test_a_check_that_crashes_has_failed_in_a_sentence(patient, monkeypatch):
    def crash(_):
        raise RuntimeError("the device is gone\nand more")

    monkeypatch.setitem(CHECKS, "codec", crash)
    assert is_red(patient, "codec", "the check itself failed, RuntimeError: the device is gone")


def test_a_plan_without_attack_has_none_to_check(policy, tmp_path):
    patient = made(policy, tmp_path, **{"rollout.n_clean": 4, "rollout.n_view": 0})
    assert finding(patient, "attack").status == "not run"


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_exit_code_says_whether_to_go_on(capsys, tmp_path):
    words = ["--only", "data", "memory", "--gpu-gb", "64", "--preset", "grpo", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    assert "2 pass, 0 fail, 0 not run: go on" in capsys.readouterr().out
    assert main([*words[:4], "0.5", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["go_on"] is False
    assert [one["status"] for one in said["findings"]] == ["pass", "fail"]
    assert not (tmp_path / "run").exists()


def test_an_unknown_check_is_bad_input():
    from saei.cli import BadInput

    with pytest.raises(BadInput, match="there is no check packing; checks: model, data"):
        main(["--only", "packing"])
