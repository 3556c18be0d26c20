"""Does the principle carry over to text? EgAS on the question's token embeddings (claims.md Q2). Ours, no paper."""

from sweeps.definition import GRPO, Sweep

SWEEP = Sweep(
    question="Does moving the question's embeddings up the entropy do what moving the image does?",
    arms={
        "grpo": GRPO,
        "image": {},
        "text_0": {"view.name": "text_embedding", "view.text_radius": 0.0},
        "text_05": {"view.name": "text_embedding", "view.text_radius": 0.05},
        "text_10": {"view.name": "text_embedding"},
        "text_20": {"view.name": "text_embedding", "view.text_radius": 0.2},
        "text_10_descend": {"view.name": "text_embedding", "view.direction": "descend"},
        "text_10_as_sampled": {"view.name": "text_embedding", "loss.train_view": "as_sampled"},
        "image_and_text": {"rollout.plan": ("clean:4", "egas:4", "text_embedding:4")},
    },
    baseline="grpo",
    primary_contrast=("text_10", "text_0"),
)
