"""Names and types of everything a run writes. No torch: of `saei`, analysis imports this and `parts` alone.

A table is a folder of parquet parts in the run directory, `<table>/part-<first step>-<last step>.parquet`; parts are
replaced whole; those that count (`saei.parts`) cover disjoint step ranges. `KEYS` make a row unique; readers refuse
duplicates. A renamed column changes `SCHEMA_VERSION`, which enters every trial id.
"""

SCHEMA_VERSION = 1

# File names of the run directory.
CONFIG_FILE = "config.json"
ENVIRONMENT_FILE = "environment.json"
DATA_CARD_FILE = "data_card.json"
STATUS_FILE = "status.json"
LOG_FILE = "log.txt"
DONE_FILE = "DONE"
SAME_AS_FILE = "SAME_AS"
MODEL_FOLDER = "model"
ADAPTER_FOLDER = "adapter"
CHECKPOINTS_FOLDER = "checkpoints"
IMAGES_FOLDER = "images"
ALARMS_FILE = "alarms.json"
CURRICULUM_FILE = "curriculum.json"
PLAN_FILE = "plan.json"
OLD_PLAN_FILE = "sweep.json"
EARLIER = "@"
"""In a plan, `<arm>@<hash>` is an arm as an earlier definition of it had it."""

# States in status.json; a run without DONE is not finished, whatever its status says.
RUNNING, FINISHED, FAILED, INTERRUPTED = "running", "finished", "failed", "interrupted"

BANDS = ("low", "middle", "high")
"""TsEC thirds of the completion tokens by entropy, ranked within each completion."""

STEPS: dict[str, str] = {
    # one row per step (one rollout batch with all its updates, 0-based), over all views
    "step": "int64",
    "updates": "int64",  # optimizer updates done after this step
    "lr": "float64",
    "reward": "float64",
    "reward_accuracy": "float64",
    "reward_format": "float64",
    "overlong_penalty": "float64",  # subtracted from the reward, mean over completions
    "groups_sampled": "int64",
    "groups_trained": "int64",  # those that pass filter.rule, at most problems_per_step
    "entropy": "float64",  # nats, full vocabulary, rollout temperature, token-weighted, image of train_view
    # (and so of the groups that were trained on: those that filter.rule dropped are not in it)
    "entropy_t1": "float64",
    "entropy_sampled_image": "float64",  # on the image each completion was sampled on, all completions
    "nll": "float64",  # mean negative log-prob of the sampled tokens; not an entropy
    "entropy_low": "float64",
    "entropy_middle": "float64",
    "entropy_high": "float64",
    "completion_length": "float64",
    "truncated_share": "float64",
    "zero_signal_share": "float64",  # groups whose rewards are all equal
    "format_only_share": "float64",  # groups whose accuracies are equal but rewards are not
    "grade_failure_share": "float64",
    "unique_answers": "float64",  # distinct final answers per group
    "advantage_mean": "float64",
    "loss": "float64",
    "clip_low_share": "float64",  # completion tokens whose ratio was clipped, over all updates of the step
    "clip_high_share": "float64",
    "importance_ratio_mean": "float64",
    "kl": "float64",  # to the reference; NaN when none is loaded
    "grad_norm": "float64",  # mean over the step's updates, before clipping
    "skipped_updates": "int64",  # non-finite gradients
    "selected_share": "float64",  # completion tokens in the policy loss, over all updates of the step
    "picked_share": "float64",  # completion tokens that the loss's own pick treats apart
    "score_degenerate_share": "float64",  # completions whose score view changed nothing; NaN without a score view
    "control_coef": "float64",  # coefficient of the entropy control, mean over completions; 0 without one
    "view_strength": "float64",  # schedule times back-off; NaN where no view changes the input
    "attack_gain": "float64",  # kept-token entropy, moved minus clean, same completions; NaN without an attack
    "attack_moved_share": "float64",
    "attack_linf": "float64",
    "attack_unmatched_share": "float64",  # controls whose L2 is more than 2 % off EgAS's; NaN without a control
    "fresh_gain": "float64",  # entropy of fresh completions on the moved image minus fresh clean ones, same noise
    "tokens_generated": "int64",
    "tokens_forward": "int64",  # token positions through a forward pass without backward
    "tokens_backward": "int64",  # token positions through a forward and backward pass
    # with rollout.engine: the engine's log-probs against the trainer's, d = engine - trainer, same tokens, same image
    "engine_gap": "float64",  # mean |d| of a token; these columns are NaN where the trainer samples itself
    "engine_gap_max": "float64",
    "engine_kl": "float64",  # mean d: estimate k1 of KL(engine || trainer) per token
    "engine_kl_k3": "float64",  # mean exp(-d) - 1 + d
    "engine_sequence_gap": "float64",  # mean over completions of |sum of d|
    "engine_unknown_share": "float64",  # tokens whose log-prob the engine did not give
    "engine_weight": "float64",  # mean weight of loss.engine_correction; NaN without one
    "engine_capped_share": "float64",  # tokens whose weight is the cap
    "time_sample": "float64",  # seconds
    "time_attack": "float64",
    "time_reward": "float64",
    "time_old_logprobs": "float64",
    "time_update": "float64",
    "time_fresh": "float64",
    "time_sync": "float64",  # weights to the rollout engine
    "time_record": "float64",
    "time_step": "float64",
}

VIEWS: dict[str, str] = {
    # one row per step and view of the group plan
    "step": "int64",
    "view": "string",
    "completions": "int64",
    "reward": "float64",
    "reward_accuracy": "float64",
    "reward_format": "float64",
    "entropy": "float64",
    "entropy_t1": "float64",
    "entropy_sampled_image": "float64",
    "nll": "float64",
    "entropy_low": "float64",
    "entropy_middle": "float64",
    "entropy_high": "float64",
    "completion_length": "float64",
    "truncated_share": "float64",
    "zero_signal_share": "float64",
    "format_only_share": "float64",
    "unique_answers": "float64",
    "advantage_mean": "float64",
    "clip_low_share": "float64",
    "clip_high_share": "float64",
    "kl": "float64",
    "view_gap": "float64",  # mean(sampler_logprobs - old_logprobs): sampled image against train_view
    "removed_mass": "float64",  # probability removed by top-p and suppression, mean over tokens
}

ROLLOUTS: dict[str, str] = {
    "step": "int64",
    "problem_id": "string",
    "view": "string",
    "index": "int64",  # number of the completion in its group
    "text": "string",
    "answer": "string",  # gold
    "tokens": "int64",
    "finished": "bool",
    "reward": "float64",
    "reward_accuracy": "float64",
    "reward_format": "float64",
    "grade_status": "string",
    "advantage": "float64",
    "trained": "bool",  # False: its group was dropped by filter.rule; entropy and nll are then NaN
    "entropy": "float64",
    "nll": "float64",
    "sampler_nll": "float64",
    "removed_mass": "float64",
    "image_hash": "string",  # of the 8-bit image(s) it was sampled on
}

ATTACKS: dict[str, str] = {
    "step": "int64",
    "problem_id": "string",
    "view": "string",
    "image": "int64",  # number of the moved image; 0 unless view.adv_per is response
    "linf": "float64",  # [0, 1] pixel units, after rounding
    "l2": "float64",
    "touched_share": "float64",  # pixels that changed
    "zero_gradient_share": "float64",
    "clipped_share": "float64",  # pixels held back by [0, 1] or the ball
    "entropy_before": "float64",  # kept tokens, same completions, clean image
    "entropy_after": "float64",  # kept tokens, same completions, rounded moved image
    "tokens_kept": "int64",
    "tokens_total": "int64",
    "moved": "bool",
    "l2_reference": "float64",  # EgAS's own L2, for controls that must match it; NaN elsewhere
    "matched": "bool",  # False: a control whose L2 is more than 2 % off that
    "text_l2": "float64",  # L2 norm of moved text embeddings; NaN where only images move
    "fresh_entropy_clean": "float64",  # fresh completions, own noise, NaN when not measured at this step
    "fresh_entropy_moved": "float64",
}

EVAL: dict[str, str] = {
    # one row per completion; step = training steps done before the evaluation (0 = the initial policy)
    "step": "int64",
    "split": "string",
    "decoding": "string",  # "sampled" (temperature 1) or "greedy"
    "problem_id": "string",
    "kind": "string",
    "figure": "string",  # hash of the problem's 8-bit image(s): problems with one figure are one cluster
    "index": "int64",
    "text": "string",
    "answer": "string",
    "accuracy": "float64",
    "format": "float64",
    "grade_status": "string",
    "tokens": "int64",
    "finished": "bool",
    "entropy": "float64",  # mean over the completion's tokens, at temperature 1
}

TABLES: dict[str, dict[str, str]] = {
    "steps": STEPS,
    "views": VIEWS,
    "rollouts": ROLLOUTS,
    "attacks": ATTACKS,
    "eval": EVAL,
}

KEYS: dict[str, tuple[str, ...]] = {
    "steps": ("step",),
    "views": ("step", "view"),
    "rollouts": ("step", "problem_id", "view", "index"),
    "attacks": ("step", "problem_id", "view", "image"),
    "eval": ("step", "split", "decoding", "problem_id", "index"),
}

ABOUT = "saei"
"""Key of the text inside an image strip: JSON, `[{"tokens": [piece, ...], "kept": [position, ...]}, ...]`, a completion
each that the attack read."""

SAMPLED, GREEDY = "sampled", "greedy"
