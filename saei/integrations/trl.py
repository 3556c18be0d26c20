"""SaEI, NoisyRollout and the controls inside TRL's own GRPOTrainer: one argument, nothing else changes.

    from saei.integrations.trl import rollout_func
    from trl import GRPOConfig, GRPOTrainer

    trainer = GRPOTrainer(
        model="Qwen/Qwen2.5-VL-3B-Instruct",
        args=GRPOConfig(output_dir="trl-saei", num_generations=12, per_device_train_batch_size=12),
        train_dataset=dataset,  # columns "prompt" and "image" or "images", as TRL has them
        reward_funcs=[accuracy_reward],
        rollout_func=rollout_func(plan=["clean:6", "egas:6"]),  # the one new line
    )
    trainer.train()

Completions are sampled by our sampler on the trainer's own model, image views by our attack; TRL then takes the images
of the update from its dataset, so that what it learns on is the clean image (`loss.train_view clean`, DESIGN 4.3).
Loss, advantages, optimizer and reward functions stay TRL's. Evaluation samples clean completions only.

Reward functions and the table of `log_completions` get the columns of `trl_columns.COLUMNS`, the logs the figures of
`trl_columns`; `analysis.load_trl` reads both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from saei.config import Config, PlannedView, ScoreConfig, SelectConfig, ViewConfig
from saei.integrations.trl_columns import ByView, completion_columns, report
from saei.integrations.trl_trainer import (
    as_sampled,
    check_trainer,
    encode_prompts,
    generation_number,
    prompt_groups,
    require_trl,
    trainer_policy,
)
from saei.make_view import make_view
from saei.options import check_names
from saei.rollout import GroupsInProgress, sample_view
from saei.settings.learning import OptimConfig
from saei.settings.rules import require
from saei.settings.sampling import RolloutConfig
from saei.views.schedule import strength

__all__ = ["ScoreConfig", "SelectConfig", "ViewConfig", "rollout_func"]

require_trl()

IMAGE_VIEWS = ("clean", "egas", "random_sign", "gaussian", "noise", "mask")
"""Views of the table that read images and completions alone; a reward is known to TRL only after all sampling."""

SAEI_PLAN = ("clean:6", "egas:6")


def rollout_func(
    plan: Sequence[str] = SAEI_PLAN,
    *,
    view: ViewConfig | None = None,
    select: SelectConfig | str | None = None,
    score: ScoreConfig | None = None,
    seed: int = 0,
    problem_id: Callable[[Any], str] | None = None,
    batch_rows: int = RolloutConfig().batch_rows,
    pack_tokens: int = OptimConfig().pack_tokens,
) -> "PlannedRollouts":
    """What to pass as `GRPOTrainer(rollout_func=...)`; `GRPOConfig.num_generations` must be the sum of the plan.

    `plan` has entries view:count in the order of sampling, `clean` first: SaEI is `clean:6 egas:6`, NoisyRollout
    `clean:6 noise:6` with its schedule in `view`, the controls `random_sign` and `gaussian`. `view`, `select` and
    `score` are the settings of those names of `saei.train` (grey levels: ViewConfig(step_size=2) is 2/255); a word for
    `select` is its rule, such as "all". Temperature, top_p and the longest completion are the trainer's.

    `seed` starts every random stream, `problem_id(prompt)` names a prompt in their keys (default: a hash of its words
    and images). `batch_rows` completions are decoded, and `pack_tokens` tokens scored, at a time: memory, not numbers.

    Raises ValueError for settings that could not work or would do nothing, and, when the trainer first samples, for a
    trainer that asks for what this sampler does not do.
    """
    chosen = SelectConfig(rule=select) if isinstance(select, str) else select
    config = Config(
        seed=seed,
        rollout=RolloutConfig(plan=tuple(plan), batch_rows=batch_rows),
        view=view or ViewConfig(),
        select=chosen or SelectConfig(),
        score=score or ScoreConfig(),
        optim=OptimConfig(pack_tokens=pack_tokens),
    )
    check_names(config)
    _refuse_what_needs_a_reward(config)
    return PlannedRollouts(config, problem_id)


@dataclass(frozen=True)
class PlannedRollouts:
    """The function that TRL calls with prompts and itself. Keeps nothing between calls."""

    config: Config
    problem_id: Callable[[Any], str] | None = None

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        """`prompt_ids`, `completion_ids`, `logprobs` (of the sampled tokens, on the image each saw) and the columns.

        `prompts` are TRL's: each stands as often in a row as it is to be answered.
        """
        training = trainer.model.training
        check_trainer(trainer, self.config.group_size)
        config = self._of_trainer(trainer)
        plan = config.group_plan() if training else (PlannedView("clean", trainer.num_generations_eval),)
        step = generation_number(trainer) if training else 0
        # in evaluation the same problem meets the same uniforms each time, as in `saei.evaluate`
        purpose = "sampling" if training else "evaluation"
        with as_sampled(trainer):
            policy = trainer_policy(trainer)
            groups = prompt_groups(prompts, sum(entry.count for entry in plan))
            encoded = encode_prompts(trainer, policy, groups, self.problem_id)
            progress = GroupsInProgress(prompts=encoded, rollouts=[[] for _ in encoded])
            force = strength(config.view, trainer.state.global_step, trainer.state.max_steps) if training else 1.0
            for name, count in plan:
                make_view(policy, progress, name, count, config, step, force)
                sample_view(policy, progress, name, count, config, step, purpose=purpose)
        columns = completion_columns(progress)
        report(trainer, progress, columns, step=step, training=training)
        if training:
            ByView.watch(trainer, len(prompts))
        rollouts = [rollout for group in progress.rollouts for rollout in group]
        return {
            "prompt_ids": [
                list(p.token_ids) for p, group in zip(encoded, progress.rollouts, strict=True) for _ in group
            ],
            "completion_ids": [list(rollout.token_ids) for rollout in rollouts],
            "logprobs": [rollout.completion.sampler_logprobs.tolist() for rollout in rollouts],
            **columns,
        }

    def _of_trainer(self, trainer: Any) -> Config:
        """Our settings, with those that a trainer has too as it has them."""
        rollout = replace(
            self.config.rollout,
            temperature=float(trainer.temperature),
            top_p=float(trainer.top_p),
            max_new_tokens=int(trainer.max_completion_length),
        )
        return replace(self.config, rollout=rollout)


def _refuse_what_needs_a_reward(config: Config) -> None:
    unknown = [entry.view for entry in config.group_plan() if entry.view not in IMAGE_VIEWS]
    require(
        not unknown,
        f"plan: {', '.join(unknown)} cannot be sampled inside TRL, which rewards completions only after all sampling "
        f"and restores images alone; choose from {', '.join(IMAGE_VIEWS)}, or train with saei.train",
    )
    for name in ("only_mixed", "back_off"):
        require(
            not getattr(config.view, name),
            f"view.{name} reads rewards before sampling is over, and TRL has none then; leave it off, or train with "
            "saei.train",
        )
    require(
        config.select.rule != "quantile",
        "select.rule quantile runs over steps, and TRL's checkpoints would not keep its state; choose band, mass or "
        "otsu, or train with saei.train",
    )
