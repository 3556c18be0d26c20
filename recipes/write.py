"""Writes the recipes beside this file: `python recipes/write.py`. A test holds the files against these tables.

Every file is whole, so that it reads alone and a copy of it may be edited; what several share stands here once. The
numbers are NoisyRollout's published recipe (arXiv 2504.13055 and its code), which SaEI's group size and data sets point
to; where no paper says what is done, a comment in the file does.
"""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent

HEAD = """\
# {method} on {data}, {model}.
#
#   python -m saei.plan {name}            memory, hours and the sbatch command
#   python -m saei.doctor --recipe {name} --problems 4 --gpus 8 --gpu-gb 80
#   python -m saei.train --recipe {name} --seed 0 --out results/manual/{stem}-s0
#
# "Published" is NoisyRollout's recipe (paper and code), the host that SaEI's 6 + 6 completions and data sets point to;
# "open" is what no paper says, and what is done here. Written by recipes/write.py: edit a copy, or that.
preset = "{preset}"
flavour = "published"
"""

STEPS = {
    "geo3k": "steps = 60         # published: 15 epochs of 2,101 problems, 512 a step\n",
    "mmk12": """\
steps = 120        # published for K12, where it is 10 epochs of 6,457 rows (xyliu6/k12-freeform); here about 4
""",
}

MODELS = {
    "7b": (
        "Qwen2.5-VL-7B-Instruct",
        'path = "Qwen/Qwen2.5-VL-7B-Instruct"   # published; SaEI does not name its model: open\n',
    ),
    "3b": (
        "Qwen2.5-VL-3B-Instruct",
        'path = "Qwen/Qwen2.5-VL-3B-Instruct"   # open: published for 7B and 32B; all else is left as for 7B\n',
    ),
}

MODEL = """
[model]
{path}dtype = "bfloat16"
freeze_vision = true             # published; gradients still reach the pixels
gradient_checkpointing = true    # ours: for memory; changes no number
"""

DATA = {
    "geo3k": (
        "Geometry3K",
        """
[data]
source = "hub"
path = "hiyouga/geometry3k"    # published: train 2,101, validation 300, test 601
train_split = "train"
validation_split = "validation"
test_split = "test"
""",
    ),
    "mmk12": (
        "MMK12 (MM-Eureka)",
        """
[data]
source = "hub"
path = "FanqingM/MMK12"        # open: which split "MM-Eureka" is; its scores are whole 2,000ths, as this test set's
train_split = "train[:-500]"   # the set has no validation split: the last 500 rows of train are ours
validation_split = "train[-500:]"
test_split = "test"
""",
    ),
}

PROMPT = """\
min_pixels = 262144     # published
max_pixels = 1000000    # published
system_prompt = \"\"\"
You FIRST think about the reasoning process as an internal monologue and then provide the final answer. \\
The reasoning process MUST BE enclosed within <think> </think> tags. \\
The final answer MUST BE put in \\\\boxed{}.\"\"\"    # published: as system message, the problem alone in the user turn
"""

ROLLOUT = """
[rollout]
problems_per_step = 512    # published
n_clean = {n_clean:<2}               # {why}
n_view = {n_view}
max_new_tokens = 2048      # published
temperature = 1.0          # published
top_p = 1.0                # published
batch_rows = 96            # ours: completions decoded at a time on one GPU; changes no number
"""

METHODS = {
    "saei": (
        "SaEI",
        {"n_clean": 6, "n_view": 6, "why": "SaEI: n1 = n2 = 6"},
        """
[view]
name = "egas"
step_size = "2/255"        # SaEI: 2/255 or 3/255, which for which data set is open
iterations = 1             # SaEI: T = 1
direction = "ascend"       # open: the paper prints a negative step on -H; raising entropy is its purpose
pixel_space = "raw"        # open: 8-bit levels after the resize, before normalisation

[select]
rule = "band"              # TsEC: the middle third of each completion's tokens, by entropy
scope = "response"         # open
drop_low = "1/3"
drop_high = "1/3"
""",
    ),
    "grpo": (
        "GRPO",
        {"n_clean": 12, "n_view": 0, "why": "as many completions as 6 + 6"},
        "",
    ),
    "noisyrollout": (
        "NoisyRollout",
        {"n_clean": 6, "n_view": 6, "why": "published: 6 + 6"},
        """
[view]
name = "noise"             # published: diffusion noise on [0, 1] pixels
schedule = "sigmoid"       # published
{noise}""",
    ),
}

NOISE = {
    "geo3k": """\
noise_level = 500          # published for Geometry3K
schedule_midpoint = {midpoint}    # published: step 40 of 60
schedule_slope = 30.0      # published for Geometry3K
""",
    "mmk12": """\
noise_level = 450          # published for K12
schedule_midpoint = {midpoint}    # published: step 40 of 120
schedule_slope = 60.0      # published for K12
""",
}
MIDPOINT = {"geo3k": 40 / 60, "mmk12": 40 / 120}

LEARNING = """
[reward]
accuracy_weight = 0.9      # published code; the paper says 0 or 1
format_weight = 0.1

[advantage]
rule = "group_std"         # one group over all views, as SaEI and NoisyRollout have it
epsilon = 1e-6             # published

[loss]
name = "grpo"
clip_low = 0.2             # published
clip_high = 0.2            # published
aggregation = "token_mean" # published; there per micro-batch of 2, here over the update batch (micro-batch free)
train_view = "clean"       # NoisyRollout: all log-probs on the clean image; for SaEI open
kl_coef = 0.0              # published: no reference policy

[control]
rule = "none"              # NoisyRollout's config, not its paper, has a bonus of 1e-3: left out of all three methods
coef = 0.0

[optim]
lr = 1e-6                  # published
weight_decay = 0.01        # published
beta2 = 0.999              # published: AdamW's own
warmup_steps = 0           # published
schedule = "constant"      # published
max_grad_norm = 1.0        # published
master_dtype = "float32"   # open: bfloat16 weights alone would lose most updates of this rate
updates_per_step = 4       # published: 128 problems an update
pack_tokens = 16384        # ours: tokens of a packed row and pass; changes no number

[eval]
every = 10                 # open
problems = 300             # of the validation split
samples = 8                # ours: mean@8 at temperature 1 beside the published greedy
test_problems = 0          # all
shifted_problems = 0

[distributed]
strategy = "shard"         # ours: weights and optimizer in parts (FSDP2); changes no number beyond rounding

[checkpoint]
every = 5                  # steps: a pre-empted run loses at most these
keep = 2
"""


def texts() -> dict[str, str]:
    """File name -> text of every recipe."""
    found = {}
    for data, (data_name, where) in DATA.items():
        for size, (model_name, path) in MODELS.items():
            for method, (method_name, group, view) in METHODS.items():
                stem = f"{data}-{size}-{method}"
                named = {"name": f"recipes/{stem}.toml", "stem": stem, "preset": method}
                noise = NOISE[data].format(midpoint=repr(MIDPOINT[data])) if method == "noisyrollout" else ""
                found[f"{stem}.toml"] = (
                    HEAD.format(method=method_name, data=data_name, model=model_name, **named)
                    + STEPS[data]
                    + "seed = 1           # published\n"
                    + MODEL.format(path=path)
                    + where
                    + PROMPT
                    + ROLLOUT.format(**group)
                    + view.format(noise=noise)
                    + LEARNING
                )
    return found


if __name__ == "__main__":
    for name, text in texts().items():
        (FOLDER / name).write_text(text)
        print(FOLDER / name)
