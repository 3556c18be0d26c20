"""TRL's own trainer with our sampling, against our own trainer."""

import importlib.metadata
import json
import re
import textwrap
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from transformers import TrainerCallback
from trl.data_utils import prepare_multimodal_messages

from analysis import load_trl, plots
from saei import train as our_trainer
from saei.clock import Clock
from saei.config import Config, ModelConfig
from saei.integrations import trl as integration
from saei.integrations.trl import SelectConfig, ViewConfig, rollout_func
from saei.integrations.trl_columns import COLUMNS
from saei.integrations.trl_trainer import generation_number, require_trl
from saei.policy import load_policy
from saei.recorder import SilentRecorder
from saei.reward import Scorer
from saei.run import Run
from saei.settings.keeping import RecordConfig
from saei.settings.learning import AdvantageConfig, LossConfig, OptimConfig
from saei.settings.sampling import RolloutConfig
from saei.steer import view_strength
from tests.trl_toy import DATA, dataset, name_of, problems, trainer

PLAN = ("clean:2", "egas:2")
TEMPERATURE, LENGTH, MAX_NORM, RATE = 0.8, 32, 0.5, 1e-4
"""Not the defaults, so that one that is forgotten on either side is seen; every gradient norm here is over MAX_NORM."""

pytestmark = pytest.mark.filterwarnings("ignore:You are using 'rollout_func'")


class Watch(TrainerCallback):
    """Gradients of the newest update, after clipping."""

    gradients: dict[str, torch.Tensor]

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def our_step(chosen, aggregation, out):
    """`train_step` on the shipped model: its groups, the row of the step, gradients after clipping, the model."""
    config = Config(
        seed=3,
        steps=1,
        out=str(out / "ours"),
        data=DATA,
        model=ModelConfig(device="cpu"),
        rollout=RolloutConfig(plan=PLAN, problems_per_step=len(chosen), temperature=TEMPERATURE, max_new_tokens=LENGTH),
        advantage=AdvantageConfig(epsilon=1e-4),
        loss=LossConfig(aggregation=aggregation),
        optim=OptimConfig(lr=RATE, warmup_steps=0, updates_per_step=1, max_grad_norm=MAX_NORM),
        record=RecordConfig(fresh_every=0, strips_per_step=0),
    )
    policy = load_policy(config.model, config.data)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    gradients, seen = {}, []

    def keep(*_):
        gradients.update({name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None})

    def rolled_out(*arguments, roll_out=our_trainer.roll_out):
        seen.append(roll_out(*arguments))
        return seen[-1]

    optimizer.register_step_pre_hook(keep)
    with Scorer(config.reward) as scorer, pytest.MonkeyPatch.context() as patch:
        patch.setattr(our_trainer, "roll_out", rolled_out)
        run = Run(config, policy, None, optimizer, scorer, SilentRecorder(config))
        row = our_trainer.train_step(run, [chosen], 0)
    return seen[0], row, gradients, policy.model


@pytest.mark.parametrize(
    ("loss_type", "aggregation"),
    [
        ("dapo", "token_mean"),
        pytest.param("grpo", "sequence_mean", marks=pytest.mark.slow),
        pytest.param("dr_grpo", "constant_length", marks=pytest.mark.slow),
    ],
)
def test_one_step_equals_our_trainer(tmp_path, loss_type, aggregation):
    chosen = problems(6)[2:5]
    heard, watch = [], Watch()
    theirs = trainer(
        tmp_path,
        chosen,
        heard=heard,
        rollout_func=rollout_func(PLAN, seed=3, problem_id=name_of(chosen)),
        callbacks=[watch],
        per_device_train_batch_size=12,
        loss_type=loss_type,
        temperature=TEMPERATURE,
        max_completion_length=LENGTH,
        optim="adamw_torch",
        adam_beta2=0.95,
        learning_rate=RATE,
        max_grad_norm=MAX_NORM,
        lr_scheduler_type="constant",
        shuffle_dataset=False,
    )
    theirs.train()
    log = theirs.state.log_history[0]
    progress, row, gradients, model = our_step(chosen, aggregation, tmp_path)

    rollouts = [rollout for group in progress.rollouts for rollout in group]
    assert heard[0]["completion_ids"] == [list(rollout.token_ids) for rollout in rollouts]
    assert heard[0]["view"] == [rollout.view for rollout in rollouts] == ["clean", "clean", "egas", "egas"] * 3
    assert heard[0]["image_hash"] == [rollout.image_hash for rollout in rollouts]
    for name, column in (("reward", "reward"), ("entropy", "entropy"), ("attack/gain", "attack_gain")):
        assert log[name] == pytest.approx(row[column], abs=1e-6), name
    assert log["loss"] == pytest.approx(row["loss"], abs=1e-6)
    assert log["grad_norm"] == pytest.approx(row["grad_norm"], rel=1e-5)
    assert log["grad_norm"] > MAX_NORM  # rewards differed, and clipping acted

    assert gradients.keys() == watch.gradients.keys()
    ours, apart = (
        torch.cat([tensor.flatten() for tensor in tensors])
        for tensors in (gradients.values(), [gradients[name] - watch.gradients[name] for name in gradients])
    )
    assert apart.norm() < 1e-5 * ours.norm()  # float32, packed groups against padded rows
    moved = torch.cat(
        [
            (dict(theirs.model.named_parameters())[name] - parameter).abs().flatten()
            for name, parameter in model.named_parameters()
            if name in gradients
        ]
    ).detach()
    # Adam's first step is the learning rate times a sign: a gradient that is rounding alone may have either
    sound = ours.abs() > 1e-6
    assert sound.float().mean() > 0.5
    assert moved[sound].max() < 1e-2 * RATE
    assert moved.max() <= 2.01 * RATE


@pytest.fixture(scope="module")
def saei(tmp_path_factory):
    """Two steps of SaEI inside TRL, each of two prompts in two accumulated passes, with evaluations and all logs."""
    from trl import GRPOTrainer

    class Seen(GRPOTrainer):
        """A user's subclass: keeps what the loss is computed on."""

        def compute_loss(self, model, inputs, *arguments, **options):
            self.batches.append(dict(inputs))
            return super().compute_loss(model, inputs, *arguments, **options)

    out, chosen, heard = tmp_path_factory.mktemp("trl") / "saei", problems(6)[2:6], []
    own = trainer(
        out,
        chosen,
        kind=Seen,
        heard=heard,
        rollout_func=rollout_func(PLAN, seed=1, problem_id=name_of(chosen)),
        eval_dataset=dataset(chosen[:2]),
        eval_strategy="steps",
        eval_steps=2,
        num_generations_eval=1,
        per_device_eval_batch_size=2,
        max_steps=2,
        gradient_accumulation_steps=2,
        gradient_checkpointing=True,  # TRL's default
        log_completions=True,
        num_completions_to_print=0,
        save_strategy="steps",
        save_steps=1,
        save_only_model=True,
    )
    own.batches = []
    own.train()
    return SimpleNamespace(out=out, chosen=chosen, heard=heard, trainer=own, batches=own.batches)


def test_the_update_sees_the_clean_images_though_completions_saw_moved_ones(saei):
    train = [call for call in saei.heard if set(call["view"]) == {"clean", "egas"}]
    assert len(train) == 2  # one rollout batch a step, of two prompts
    for call in train:
        assert call["view"] == ["clean", "clean", "egas", "egas"] * 2
        moved = np.array(call["view"]) == "egas"
        assert (np.array(call["attack_linf"])[moved] == 2 / 255).all()
        assert (np.array(call["attack_linf"])[~moved] == 0).all()
        hashes = [set(call["image_hash"][start : start + 4]) for start in (0, 4)]
        assert [len(names) for names in hashes] == [2, 2]
    stock = saei.trainer.processing_class.image_processor
    clean = [
        stock(images=[picture], return_tensors="pt")["pixel_values"]
        for problem in saei.chosen
        for picture in problem.images
    ]
    for batch in saei.batches:
        for own in batch["pixel_values"].split(batch["image_grid_thw"].prod(dim=1).tolist()):
            assert any(own.shape == image.shape and torch.equal(own, image) for image in clean)


def test_the_log_tells_the_attack_and_the_rewards_of_each_view(saei):
    rows = [row for row in saei.trainer.state.log_history if "loss" in row]
    for row, call in zip(rows, saei.heard, strict=False):
        rewards = our_rewards(saei.chosen, call)
        for view in ("clean", "egas"):
            own = [reward for reward, seen in zip(rewards, call["view"], strict=True) if seen == view]
            assert row[f"views/{view}/reward"] == pytest.approx(np.mean(own), abs=1e-6)
            assert row[f"views/{view}/our_reward"] == pytest.approx(np.mean(own), abs=1e-6)
        gains = [gain for gain in call["attack_gain"] if not np.isnan(gain)]
        assert len(gains) == 4
        assert row["attack/gain"] == pytest.approx(np.mean(gains), abs=1e-7)
        assert row["attack/entropy_after"] - row["attack/entropy_before"] == pytest.approx(row["attack/gain"], abs=1e-6)
        assert row["attack/linf"] == pytest.approx(2 / 255)
        assert row["group_size"] == 4


def our_rewards(chosen, call):
    golds = {problem.problem_id: problem for problem in chosen}
    texts = [completion[0]["content"] for completion in call["completions"]]
    with Scorer(Config().reward) as scorer:
        return [scorer.reward(grade) for grade in scorer.grade(texts, [golds[name] for name in call["name"]])]


def test_evaluation_samples_clean_completions_only_and_the_same_while_the_weights_are_the_same(saei):
    calls = [call for call in saei.heard if set(call["view"]) == {"clean"}]
    assert calls and all(len(call["view"]) == 2 for call in calls)
    again = len(saei.heard)
    saei.trainer.evaluate()
    assert saei.heard[again]["completion_ids"] == calls[-1]["completion_ids"]


def test_load_trl_gives_the_frames_that_our_figures_take(saei):
    runs = load_trl(saei.out, accuracy="our_reward")
    logged = [row for row in saei.trainer.state.log_history if "loss" in row]
    assert runs.steps["step"].tolist() == [0, 1] and runs.steps["updates"].tolist() == [1, 2]
    for ours, theirs in (
        ("reward", "reward"),
        ("entropy", "entropy"),
        ("attack_gain", "attack/gain"),
        ("loss", "loss"),
    ):
        assert runs.steps[ours].tolist() == [row[theirs] for row in logged]
    assert runs.steps["entropy_t1"].isna().all()  # which TRL does not log
    assert list(zip(runs.views["step"], runs.views["view"], strict=True)) == [
        (0, "clean"), (0, "egas"), (1, "clean"), (1, "egas"),
    ]  # fmt: skip
    assert runs.views["reward"].tolist() == [
        row[f"views/{view}/reward"] for row in logged for view in ("clean", "egas")
    ]
    # the evaluation after step 2 wrote over that step's completions, and a note says so
    first = runs.rollouts[runs.rollouts["step"] == 0]
    assert len(first) == 8 and len(runs.notes) == 1 and "completions_00002.parquet" in runs.notes[0]
    by_key = first.sort_values(["problem_id", "index"])
    call = saei.heard[0]
    assert sorted(by_key["problem_id"].unique()) == sorted(set(call["name"]))
    for name in COLUMNS[:1] + COLUMNS[2:]:
        expected = pd.DataFrame({"problem_id": call["name"], "index": [0, 1, 2, 3] * 2, name: call[name]})
        assert by_key[name].tolist() == pytest.approx(
            expected.sort_values(["problem_id", "index"])[name].tolist(), nan_ok=True
        )
    assert first["reward"].mean() == pytest.approx(logged[0]["reward"], abs=1e-6)
    assert (first.groupby("problem_id")["advantage"].sum().abs() < 1e-4).all()
    assert runs.scores["step"].tolist() == [2] and runs.scores["samples"].tolist() == [1]
    for figure in (
        plots.reward_over_steps(runs.steps),
        plots.entropy_over_steps(runs.steps),
        plots.entropy_by_view(runs.views),
        plots.attack_gain_over_steps(runs.steps),
        plots.accuracy_over_steps(runs.scores),
    ):
        assert isinstance(figure, Figure)


def test_load_trl_compares_arms_and_survives_torn_files(saei, tmp_path):
    runs = load_trl({"one": [saei.out, saei.out], "two": saei.out})
    assert list(runs.steps["arm"].cat.categories) == ["one", "two"]
    assert runs.steps.groupby("arm", observed=True)["seed"].nunique().tolist() == [2, 1]
    (tmp_path / "checkpoint-1").mkdir()
    state = (saei.out / "checkpoint-1" / "trainer_state.json").read_text()
    (tmp_path / "checkpoint-1" / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text(state[:200])
    (tmp_path / "completions").mkdir()
    whole = (saei.out / "completions" / "completions_00001.parquet").read_bytes()
    (tmp_path / "completions" / "completions_00001.parquet").write_bytes(whole[: len(whole) // 2])
    torn = load_trl(tmp_path)
    assert torn.steps["step"].tolist() == [0] and torn.rollouts.empty
    assert len(torn.notes) == 2
    with pytest.raises(ValueError, match="save_state"):
        load_trl(tmp_path / "completions")
    with pytest.raises(ValueError, match="our_reward"):
        load_trl(tmp_path, accuracy="right")


def test_a_plain_trl_log_has_clean_rollouts_and_no_views(saei, tmp_path):
    """As GRPO without our sampling leaves it: no column and no figure of ours."""
    state = json.loads((saei.out / "checkpoint-2" / "trainer_state.json").read_text())
    ours = re.compile(r"(eval_)?(views|attack)/.*|(eval_)?group_size")
    state["log_history"] = [{k: v for k, v in row.items() if not ours.fullmatch(k)} for row in state["log_history"]]
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "completions").mkdir()
    logged = pd.read_parquet(saei.out / "completions" / "completions_00001.parquet")
    logged.drop(columns=["view", "rollout"]).to_parquet(tmp_path / "completions" / "completions_00001.parquet")
    runs = load_trl(tmp_path)
    assert runs.views.empty and runs.scores.empty and len(runs.notes) == 1
    assert runs.steps["attack_gain"].isna().all() and runs.steps["entropy"].notna().all()
    assert runs.rollouts["view"].tolist() == ["clean"] * 8
    assert not runs.rollouts.duplicated(["step", "problem_id", "view", "index"]).any()
    assert load_trl(tmp_path, accuracy="our_reward", samples=1).scores["samples"].tolist() == [1]


@pytest.fixture
def call(saei, monkeypatch):
    """Call a rollout function as the trainer of `saei` does before its first step, with attributes of it changed."""

    def called(rollout, chosen, repeats=4, *, training=True, **changed):
        saei.trainer.model.train(training)
        logged = {"columns": {}, "figures": {}}
        usual = {
            "_log_completion_extra": lambda name, values: logged["columns"].update({name: values}),
            "_log_metric": lambda name, value: logged["figures"].update({name: value}),
            "state": SimpleNamespace(global_step=0, max_steps=2),
            "_step": 0,
        }
        for name, value in {**usual, **changed}.items():
            monkeypatch.setattr(saei.trainer, name, value)
        rows = dataset(chosen)
        prompts = [
            prepare_multimodal_messages(row["prompt"], images=row["images"]) for row in rows for _ in range(repeats)
        ]
        return rollout(prompts, saei.trainer), logged

    return called


@pytest.mark.parametrize(
    "view", ["random_sign", "noise", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gaussian", "mask"))]
)
def test_rivals_and_controls_sample_as_our_trainer_does(saei, call, view):
    chosen, settings = saei.chosen[:2], ViewConfig(schedule="linear") if view == "noise" else ViewConfig()
    plan = ("clean:2", f"{view}:2")
    answer, logged = call(rollout_func(plan, seed=5, view=settings, problem_id=name_of(chosen)), chosen)
    config = Config(
        seed=5,
        steps=2,
        data=DATA,
        view=settings,
        rollout=RolloutConfig(plan=plan, problems_per_step=2, max_new_tokens=saei.trainer.max_completion_length),
        out=str(saei.out),
    )
    policy = load_policy(ModelConfig(device="cpu"), DATA)
    policy.model.load_state_dict(saei.trainer.model.state_dict())
    with Scorer(config.reward) as scorer:
        run = Run(config, policy, None, torch.optim.SGD(policy.model.parameters()), scorer, SilentRecorder(config))
        progress = our_trainer.roll_out(run, chosen, 0, view_strength(config, 0, run.state), Clock())
    rollouts = [rollout for group in progress.rollouts for rollout in group]
    assert answer["completion_ids"] == [list(rollout.token_ids) for rollout in rollouts]
    assert answer["image_hash"] == [rollout.image_hash for rollout in rollouts]
    assert len(set(answer["image_hash"])) == 4
    assert answer["prompt_ids"] == [list(group.token_ids) for group in progress.prompts for _ in range(4)]
    ledger = {row.problem_id: row for row in progress.ledger}
    facts = logged["columns"]["rollout"]
    for number, fact in enumerate(facts):
        row = ledger[fact["problem_id"]]
        assert answer["attack_l2"][number] == (row.l2 if answer["view"][number] == view else 0.0)
    if view == "noise":  # reads no entropy, so there is none to report
        assert "attack/gain" not in logged["figures"]
    assert saei.trainer.model.training  # as before the call


def test_completions_of_one_image_each_carry_their_own_attack(saei, call):
    chosen = saei.chosen[:1]
    answer, _ = call(rollout_func(PLAN, view=ViewConfig(adv_per="response")), chosen)
    assert len(set(answer["image_hash"])) == 3  # one clean, two moved
    assert len(set(answer["attack_gain"][2:])) == 2


def test_a_problem_twice_in_a_batch_is_two_groups(saei, call):
    answer, logged = call(rollout_func(PLAN), [saei.chosen[0]] * 2)
    names = [fact["problem_id"] for fact in logged["columns"]["rollout"]]
    assert names[4:] == [f"{names[0]}#1"] * 4
    assert answer["completion_ids"][:4] != answer["completion_ids"][4:]


def test_each_module_is_in_its_own_mode_after_sampling(saei, call):
    saei.trainer.model.train()
    frozen = saei.trainer.model.model.visual
    required = {name: p.requires_grad for name, p in saei.trainer.model.named_parameters()}
    call_mode = {name: module.training for name, module in saei.trainer.model.named_modules()}
    with pytest.raises(RuntimeError, match="interrupted"):
        call(rollout_func(PLAN, problem_id=lambda prompt: stop()), saei.chosen[:1])
    assert {name: module.training for name, module in saei.trainer.model.named_modules()} == call_mode
    assert {name: p.requires_grad for name, p in saei.trainer.model.named_parameters()} == required
    assert frozen.training


def stop():
    raise RuntimeError("interrupted")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"num_generations": 8}, "set num_generations=4"),
        ({"use_vllm": True}, "use_vllm=True"),
        ({"top_k": 50}, "top_k=50"),
        ({"repetition_penalty": 1.1}, "repetition_penalty=1.1"),
        ({"min_p": 0.1}, "min_p=0.1"),
        ({"off_policy_mask_threshold": 0.5}, "drop completions because their image was moved"),
        ({"tools": [len]}, "tools"),
        ({"_is_vlm": False}, "image processor"),
        ({"accelerator": SimpleNamespace(num_processes=2)}, "2 processes"),
        ({"train_dataset": SimpleNamespace(column_names=["prompt", "view"])}, "columns view"),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_the_cure(saei, call, changed, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        call(rollout_func(PLAN), saei.chosen[:1], **changed)


def test_attention_without_masks_and_unknown_families_are_refused(saei, call, monkeypatch):
    config = saei.trainer.model.config
    with monkeypatch.context() as patch:
        patch.setattr(config.get_text_config(), "_attn_implementation_internal", "flash_attention_2")
        with pytest.raises(ValueError, match="load it with sdpa"):
            call(rollout_func(PLAN), saei.chosen[:1])
    with monkeypatch.context() as patch:
        patch.setattr(config, "model_type", "llava")
        with pytest.raises(ValueError, match="model type is llava"):
            call(rollout_func(PLAN), saei.chosen[:1])


def test_prompts_that_are_not_whole_groups_are_refused(saei, call):
    with pytest.raises(ValueError, match="whole groups of 4"):
        call(rollout_func(PLAN), saei.chosen[:1], repeats=3)
    with pytest.raises(ValueError, match="4 times in a row"):
        call(rollout_func(PLAN), saei.chosen[:2], repeats=2)


def test_a_prompt_without_image_is_refused(saei, call):
    bare = [replace(saei.chosen[0], images=())]
    with pytest.raises(ValueError, match="has no image"):
        call(rollout_func(PLAN), bare)


def test_an_image_token_in_the_question_is_refused(saei, call):
    hostile = [replace(saei.chosen[0], question="What? <|image_pad|>")]
    with pytest.raises(ValueError, match=re.escape("Found total 2 <|image_pad|> tokens and 1 images")):
        call(rollout_func(PLAN), hostile)


def test_a_processor_that_is_not_the_models_own_is_refused(saei, call):
    tokenized = saei.trainer._tokenize_prompts

    def shorter(prompts):
        token_ids, images, fields = tokenized(prompts)
        image_token = saei.trainer.model.config.image_token_id
        return [[one for one in ids if one != image_token] for ids in token_ids], images, fields

    def darker(prompts):
        token_ids, images, fields = tokenized(prompts)
        return token_ids, images, {**fields, "pixel_values": torch.as_tensor(fields["pixel_values"]) + 0.01}

    with pytest.raises(ValueError, match="0 image placeholders where its 1 images need 9"):
        call(rollout_func(PLAN), saei.chosen[:1], _tokenize_prompts=shorter)
    with pytest.raises(ValueError, match="not those of an 8-bit image"):
        call(rollout_func(PLAN), saei.chosen[:1], _tokenize_prompts=darker)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"plan": ("clean:2", "error:2")}, "error cannot be sampled inside TRL"),
        ({"plan": ("clean:2", "text_embedding:2")}, "text_embedding"),
        ({"plan": ("egas:4",)}, "must start with clean"),
        ({"plan": ("clean:2", "egass:2")}, "did you mean egas"),
        ({"view": ViewConfig(only_mixed=True)}, "view.only_mixed"),
        ({"view": ViewConfig(back_off=True)}, "view.back_off"),
        ({"view": ViewConfig(noise_level=100)}, "does nothing for egas"),
        ({"select": "quantile"}, "select.rule quantile"),
        ({"select": "bnad"}, "did you mean band"),
        ({"select": SelectConfig(score="vepo")}, "score.view"),
    ],
)
def test_settings_that_could_not_work_are_refused_before_training(settings, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        rollout_func(**{"plan": PLAN, **settings})


def test_rollout_batches_are_counted_over_the_whole_run():
    def number(global_step, passes, *, accumulated, generated, iterations=1):
        arguments = SimpleNamespace(gradient_accumulation_steps=accumulated, steps_per_generation=generated)
        state = SimpleNamespace(global_step=global_step)
        return generation_number(SimpleNamespace(args=arguments, state=state, _step=passes, num_iterations=iterations))

    assert [number(step, step, accumulated=1, generated=1) for step in range(3)] == [0, 1, 2]
    assert number(1, 0, accumulated=1, generated=1) == 1  # resumed: TRL counts its passes from 0 again
    assert [number(0, 0, accumulated=4, generated=2), number(0, 2, accumulated=4, generated=2)] == [0, 1]
    assert number(4, 8, accumulated=2, generated=4) == 2  # two updates from one batch
    assert number(4, 4, accumulated=1, generated=2, iterations=2) == 1


def test_the_example_runs_as_it_stands(monkeypatch):
    """That of the module, and those of the README that use it; only the model of 3B and its training are left out."""
    import trl

    readme = (Path(__file__).resolve().parent.parent / "README.md").read_text()
    blocks = [block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "GRPOTrainer(" in block]
    blocks.append(re.search(r"\n\n((?:    .*\n|\n)+)", integration.__doc__).group(1))
    built = []

    class Kept:
        def __init__(self, **options):
            built.append(options)

        def train(self): ...

    monkeypatch.setattr(trl, "GRPOConfig", partial(trl.GRPOConfig, use_cpu=True, bf16=False))  # no GPU in CI
    monkeypatch.setattr(trl, "GRPOTrainer", Kept)
    for block in blocks:
        exec(textwrap.dedent(block), {"dataset": None, "accuracy_reward": None})
    assert len(built) == len(blocks)
    for options in built:
        assert options["args"].num_generations == options["rollout_func"].config.group_size


@pytest.mark.parametrize("found", [None, "1.15.2", "2.0.0"])
def test_another_trl_is_refused_with_the_command_that_helps(monkeypatch, found):
    def version(name):
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr("saei.integrations.trl_trainer.version", version)
    with pytest.raises(ImportError, match=re.escape("pip install 'trl==1.16.*'")):
        require_trl()


@pytest.mark.slow
def test_adapters_are_sampled_from_as_trl_scores_them(tmp_path):
    """LoRA: log-probs of clean completions as sampled, against those of TRL's own forward pass in the update."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    from trl import GRPOTrainer

    scored, answers, planned = {}, [], rollout_func(PLAN)

    class Adapted(GRPOTrainer):
        def __init__(self, **options):
            lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
            super().__init__(peft_config=lora, **options)

        def _get_per_token_logps_and_entropies(self, *arguments, **options):
            logprobs, entropies, aux_loss = super()._get_per_token_logps_and_entropies(*arguments, **options)
            kept = arguments[3]
            for tokens, row in zip(arguments[1], logprobs.detach(), strict=True):
                scored.setdefault(tuple(tokens[-kept:].tolist()), row)
            return logprobs, entropies, aux_loss

    def sampled(prompts, own):
        answers.append(planned(prompts, own))
        return answers[-1]

    chosen = problems(6)[2:4]
    own = trainer(tmp_path, chosen, kind=Adapted, rollout_func=sampled, per_device_train_batch_size=8)
    with own.model.disable_adapter():
        plain = own.model(**own.processing_class(text=["a"], return_tensors="pt")).logits
    assert not torch.allclose(plain, own.model(**own.processing_class(text=["a"], return_tensors="pt")).logits)
    own.train()
    compared = 0
    for tokens, logprobs, view in zip(
        *(answers[0][name] for name in ("completion_ids", "logprobs", "view")), strict=True
    ):
        own_row = next(row for padded, row in scored.items() if list(padded[: len(tokens)]) == tokens)
        if view == "clean":
            assert own_row[: len(tokens)].tolist() == pytest.approx(logprobs, abs=1e-4)
            compared += 1
    assert compared == 4
    assert {p.requires_grad for name, p in own.model.named_parameters() if "lora" not in name} == {False}


@pytest.mark.slow
def test_batches_that_serve_several_updates_are_trained_and_read_once(tmp_path):
    """NoisyRollout with two rollout batches of two prompts, each learned from in two updates, twice over."""
    chosen, heard = problems(6)[2:6], []
    view = ViewConfig(schedule="sigmoid")
    own = trainer(
        tmp_path,
        chosen,
        heard=heard,
        rollout_func=rollout_func(("clean:2", "noise:2"), view=view, problem_id=name_of(chosen)),
        steps_per_generation=2,
        num_iterations=2,
        max_steps=8,
        log_completions=True,
        num_completions_to_print=0,
        shuffle_dataset=False,
    )
    own.train()
    own.save_state()
    assert len(heard) == 2
    runs = load_trl(tmp_path, accuracy="our_reward")
    assert len(runs.steps) == 8 and len(runs.rollouts) == 16
    assert runs.rollouts["step"].unique().tolist() == [0, 4]
    assert runs.rollouts.groupby(["step", "problem_id", "view"]).size().eq(2).all()
    # TRL logs the reward where a batch was sampled, and nothing between
    assert runs.steps["reward"].notna().tolist() == [True, False, False, False] * 2
    assert runs.steps["entropy"].notna().all()
