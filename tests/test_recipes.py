"""The recipes that come with the project: the published numbers, how siblings differ, and what a bad file is told."""

import re
from pathlib import Path

import pytest

from recipes.write import texts
from saei.cli import BadInput
from saei.config import to_dict
from saei.options import train_command_line
from saei.presets import preset
from saei.recipe import read_recipe
from sweeps.definition import arm_config, load_sweep
from sweeps.on_recipe import on_recipe

FOLDER = Path(__file__).resolve().parent.parent / "recipes"
METHODS, SIZES, DATA = ("grpo", "saei", "noisyrollout"), ("3b", "7b"), ("geo3k", "mmk12")
NAMES = [f"{data}-{size}-{method}" for data in DATA for size in SIZES for method in METHODS]

# NoisyRollout's recipe as its paper and code have it (arXiv 2504.13055; SaEI's groups are those of arXiv 2512.10414)
PUBLISHED = {
    "rollout.problems_per_step": 512, "rollout.max_new_tokens": 2048, "rollout.temperature": 1.0, "rollout.top_p": 1.0,
    "optim.updates_per_step": 4, "optim.lr": 1e-6, "optim.weight_decay": 0.01, "optim.warmup_steps": 0,
    "optim.max_grad_norm": 1.0, "loss.clip_low": 0.2, "loss.clip_high": 0.2, "loss.dual_clip": 0.0,
    "loss.kl_coef": 0.0, "loss.train_view": "clean", "data.min_pixels": 262144, "data.max_pixels": 1000000,
    "model.freeze_vision": True, "model.dtype": "bfloat16", "reward.accuracy_weight": 0.9,
    "reward.format_weight": 0.1, "seed": 1,
}  # fmt: skip
PUBLISHED_OF = {
    "geo3k": {"steps": 60, "data.path": "hiyouga/geometry3k"},
    "mmk12": {"steps": 120, "data.path": "FanqingM/MMK12"},
    "3b": {"model.path": "Qwen/Qwen2.5-VL-3B-Instruct"},
    "7b": {"model.path": "Qwen/Qwen2.5-VL-7B-Instruct"},
    "grpo": {"plan": [("clean", 12)]},
    "saei": {"plan": [("clean", 6), ("egas", 6)], "view.step_size": 2.0, "view.iterations": 1},
    "noisyrollout": {"plan": [("clean", 6), ("noise", 6)], "view.schedule": "sigmoid"},
    "geo3k-noisyrollout": {"view.noise_level": 500, "view.schedule_slope": 30.0, "view.schedule_midpoint": 40 / 60},
    "mmk12-noisyrollout": {"view.noise_level": 450, "view.schedule_slope": 60.0, "view.schedule_midpoint": 40 / 120},
}
PROMPT = (
    "You FIRST think about the reasoning process as an internal monologue and then provide the final answer. The "
    "reasoning process MUST BE enclosed within <think> </think> tags. The final answer MUST BE put in \\boxed{}."
)


def flat(config):
    """Dotted settings, and the group plan."""
    found = {"plan": [tuple(entry) for entry in config.group_plan()]}
    for name, value in to_dict(config).items():
        found |= {f"{name}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {name: value}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_has_the_published_numbers(name):
    data, size, method = name.split("-")
    settings = flat(read_recipe(FOLDER / f"{name}.toml"))
    wanted = PUBLISHED | PUBLISHED_OF[data] | PUBLISHED_OF[size] | PUBLISHED_OF[method]
    wanted |= PUBLISHED_OF.get(f"{data}-{method}", {})
    assert {key: settings[key] for key in wanted} == wanted
    assert settings["data.system_prompt"] == PROMPT
    assert settings["preset"] == method
    assert settings["flavour"] == "published"


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("size", SIZES)
def test_methods_of_one_model_and_data_set_differ_in_plan_and_view_only(data, size):
    grpo, saei, noisy = (
        flat(read_recipe(FOLDER / f"{data}-{size}-{method}.toml")) for method in ("grpo", "saei", "noisyrollout")
    )
    labels = {"preset", "recipe", "out"}
    plan = {"plan", "rollout.n_clean", "rollout.n_view"}
    noise = {"view.name", "view.schedule", "view.noise_level", "view.schedule_midpoint", "view.schedule_slope"}
    assert {key for key in grpo if grpo[key] != saei[key]} == labels | plan
    assert {key for key in saei if saei[key] != noisy[key]} - labels <= noise | {"plan"}


@pytest.mark.parametrize("method", METHODS)
def test_data_sets_differ_in_data_and_what_was_published_for_them(method):
    one, other = (flat(read_recipe(FOLDER / f"{data}-7b-{method}.toml")) for data in DATA)
    allowed = {"steps", "recipe", "out", "view.noise_level", "view.schedule_midpoint", "view.schedule_slope"}
    differ = {key for key in one if one[key] != other[key]} - allowed
    assert differ and all(key.startswith("data.") for key in differ), differ


def test_the_files_are_those_that_the_tables_make_and_say_everything():
    assert {path.name: path.read_text() for path in FOLDER.glob("*.toml")} == texts(), "run: python recipes/write.py"
    for name in NAMES:  # no setting comes from anywhere but the file: on the tiny preset it reads the same
        text = texts()[f"{name}.toml"].replace('flavour = "published"', 'flavour = "tiny"')
        own = flat(read_recipe(FOLDER / f"{name}.toml"))
        plain = flat(preset("grpo"))
        missing = {key for key in own if own[key] != plain[key] and key.rpartition(".")[2] not in text}
        assert not missing - {"recipe", "out", "plan", "flavour"}, name


def test_the_doctors_line_of_a_recipe_says_which_gpus_will_share_the_run():
    for text in texts().values():
        assert 'strategy = "shard"' in text
        assert re.search(r"saei\.doctor --recipe recipes/\S+ --problems 4 --gpus 8 --gpu-gb 80\n", text)


def test_a_flag_changes_a_recipe_and_the_run_says_which_recipe_it_was(capsys):
    path = FOLDER / "geo3k-7b-saei.toml"
    words = ["--recipe", str(path), "--data.source", "digits", "--optim.lr", "2e-6", "--seed", "3"]
    config = train_command_line(words)
    assert config is not None
    assert (config.optim.lr, config.seed, config.rollout.problems_per_step) == (2e-6, 3, 512)
    assert (config.recipe, config.preset, config.flavour) == (str(path), "saei", "published")
    assert config.out == "results/manual/geo3k-7b-saei"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stepps = 3", r"unknown setting stepps: did you mean steps\?"),
        ("[model]\npaths = 'x'", r"unknown setting model\.paths: did you mean model\.path\?"),
        ("steps = 1.5", "steps is a whole number, got 1.5"),
        ("steps = true", "steps is a whole number, got True"),
        ("[model]\nfreeze_vision = 'false'", r"model\.freeze_vision is true or false, got 'false'"),
        ("[optim]\nlr = '1e-6'", r"optim\.lr is a number, got '1e-6'"),
        ("[view]\nstep_size = '-2/255'", r"view\.step_size must be >= 0, got -2"),
        ("[view]\nstep_size = 0.0078", r"grey levels .* did you mean 2/255"),
        ("[select]\ndrop_low = 'a third'", r"select\.drop_low cannot be 'a third'"),
        ("preset = 'seai'", r"unknown preset seai: did you mean saei\?"),
        ("[rollout]\nn_clean = 0", r"group plan must start with clean"),
        ("steps = ", "cannot be read"),
        ("recipe = 'other.toml'", "unknown setting recipe"),
        ("[data.more]\npath = 'x'", r"unknown setting data\.more"),
    ],
)
def test_a_bad_recipe_is_refused_by_file_and_key(tmp_path, text, said):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match=f"(?s)mine.toml.*{said}"):
        read_recipe(path)


def test_a_recipe_that_is_not_there_and_one_beside_a_preset_are_refused():
    with pytest.raises(BadInput, match=r"there is no file .*none\.toml"):
        train_command_line(["--recipe", "none.toml"])
    with pytest.raises(BadInput, match="--preset and --recipe both set the defaults"):
        train_command_line(["--recipe=none.toml", "--preset", "grpo"])


def test_a_sweep_on_a_recipe_has_its_host_and_its_own_arms():
    sweep = on_recipe(load_sweep("methods"), FOLDER / "geo3k-3b-noisyrollout.toml")
    saei, grpo, dapo = (flat(arm_config(sweep, arm, 4, {"steps": 7})) for arm in ("saei", "grpo", "dapo"))
    assert saei["plan"] == [("clean", 6), ("egas", 6)]  # the arm's, not the recipe's noise
    assert (saei["model.path"], saei["optim.lr"], saei["steps"]) == ("Qwen/Qwen2.5-VL-3B-Instruct", 1e-6, 7)
    assert (saei["seed"], saei["flavour"], grpo["preset"], dapo["preset"]) == (4, "published", "grpo", "dapo")
    differ = {key for key in saei if saei[key] != grpo[key]}
    assert differ == {"plan", "rollout.n_clean", "rollout.n_view", "preset"}
    assert dapo["reward.overlong_buffer"] == 512  # published for 2,048 tokens; 16 is the tiny model's


def test_a_sweep_on_a_recipe_has_the_noise_that_is_published_for_its_data():
    sweep = on_recipe(load_sweep("methods"), FOLDER / "mmk12-7b-saei.toml")
    arm = flat(arm_config(sweep, "noisyrollout", 1, {}))
    alone = flat(read_recipe(FOLDER / "mmk12-7b-noisyrollout.toml"))
    assert (arm["view.noise_level"], arm["view.schedule_slope"], arm["preset"]) == (450, 60.0, "noisyrollout")
    groups = ("view.", "rollout.", "loss.", "optim.", "data.", "model.", "control.", "advantage.")
    assert not {key for key in arm if key.startswith(groups) and arm[key] != alone[key]}
    geometry = on_recipe(load_sweep("methods"), FOLDER / "geo3k-7b-saei.toml")
    assert flat(arm_config(geometry, "noisyrollout", 1, {}))["view.noise_level"] == 500


def test_a_recipe_that_changes_the_attack_is_no_base_of_a_sweep_whose_arms_are_named_for_the_default(tmp_path):
    text = (FOLDER / "geo3k-3b-saei.toml").read_text().replace('step_size = "2/255"', 'step_size = "3/255"')
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(BadInput, match=r"it sets view.step_size to 3.*give --set view.step_size=3"):
        on_recipe(load_sweep("step_size"), tmp_path / "mine.toml")


def test_a_typo_in_the_recipe_of_a_sweep_is_refused_by_file_and_key(tmp_path):
    (tmp_path / "mine.toml").write_text("stepps = 3")
    with pytest.raises(BadInput, match=r"--recipe .*mine\.toml: unknown setting stepps: did you mean steps\?"):
        on_recipe(load_sweep("step_size"), tmp_path / "mine.toml")
