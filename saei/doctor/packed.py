"""Are packed log-probs and entropies those of the plain forward pass, and did the packed path run?"""

import torch

from saei.doctor.finding import Finding, failed, passed
from saei.doctor.patient import Patient
from saei.doctor.stock import stock_scores

MEAN_SHARE = 0.2
"""A mean difference above this share of the largest that rounding explains is no rounding."""


@torch.no_grad()
def check_packed(patient: Patient) -> Finding:
    policy, requests = patient.policy, patient.requests()
    before = policy.packed_forwards
    scored = policy.score(requests, temperature=1.0, pack_tokens=patient.config.optim.pack_tokens)
    passes = policy.packed_forwards - before
    differences = []
    for request, scores in zip(requests, scored, strict=True):
        for completion, score in zip(request.completions, scores, strict=True):
            logprobs, entropy = stock_scores(policy, request.prompt, completion)
            differences += [(score.logprobs - logprobs).abs(), (score.entropy - entropy).abs()]
    every = torch.cat(differences)
    completions = sum(len(request.completions) for request in requests)
    figure = (
        f"{completions} completions in {passes} packed passes; largest difference {float(every.max()):.1e}, mean "
        f"{float(every.mean()):.1e} nats (rounding explains {patient.tolerance:g})"
    )
    if passes == 0:
        return failed(figure, "the packed path did not run: this is a bug")
    if not (every.max() <= patient.tolerance and every.mean() <= MEAN_SHARE * patient.tolerance):
        return failed(
            figure,
            "completions of a row see each other, or positions are wrong: a mask or family that this model does not "
            "fit; try --model.attention eager, and report it",
        )
    return passed(figure)
