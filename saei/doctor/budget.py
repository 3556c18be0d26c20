"""Do prompt and longest completion fit the model, what do images cost, and how many completions are cut?"""

import statistics

from saei.doctor.finding import Finding, failed, passed
from saei.doctor.patient import Patient

LOOKED_AT = 32
MOST_CUT = 0.5
"""Share of completions cut at rollout.max_new_tokens above which most rewards are lost."""


def check_budget(patient: Patient) -> Finding:
    config, policy = patient.config, patient.policy
    problems = patient.first(config.data.train_split, LOOKED_AT)
    prompts = [policy.encode(problem) for problem in problems]
    lengths = [len(prompt.token_ids) for prompt in prompts]
    images = [policy.codec.tokens(image) for prompt in prompts for image in prompt.images] or [0]
    context = policy.model.config.get_text_config().max_position_embeddings
    longest = max(lengths) + config.rollout.max_new_tokens
    rollouts = [rollout for group in patient.groups for rollout in group.rollouts]
    cut = sum(not rollout.completion.finished for rollout in rollouts)
    figure = (
        f"{len(prompts)} prompts of {min(lengths)} to {max(lengths)} tokens + {config.rollout.max_new_tokens} = "
        f"{longest} of {context}; an image {min(images)} to {max(images)}, median {statistics.median(images):g}; "
        f"{cut} of {len(rollouts)} completions cut"
    )
    if longest > context:
        return failed(
            figure, f"--rollout.max-new-tokens {max(1, context - max(lengths))}, or a lower --data.max-pixels"
        )
    if cut > MOST_CUT * len(rollouts):
        return failed(
            figure,
            f"--rollout.max-new-tokens {2 * config.rollout.max_new_tokens}, or a model that ends its answers: what is "
            "cut has no answer and earns nothing",
        )
    return passed(figure)
