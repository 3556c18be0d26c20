"""Rows of the tables from the values of one step. Every mean says what it is weighted by; nothing is smoothed.

Entropies, log-probs, clip shares and KL are weighted by completion tokens; rewards, lengths and advantages by
completions; signal shares by groups.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from saei.clock import Clock
from saei.engines.mismatch import mismatch_facts, mismatch_summary
from saei.evidence import Evidence
from saei.reward import GRADE_FAILURES
from saei.rollout import GroupsInProgress, Key
from saei.schema import BANDS, STEPS
from saei.select import bands
from saei.types import AttackRow, Rollout
from saei.update import UpdateResult

NAN = math.nan
ROLLOUT_MEANS = ("entropy", "nll", "sampler_nll", "removed_mass")
"""Columns of `rollouts` that are means over the completion's own tokens."""
MATCH_TOLERANCE = 0.02
"""A control whose L2 is further than this from EgAS's own is not the control it claims to be, and is counted."""


def rollout_facts(
    progress: GroupsInProgress,
    advantages: dict[Key, float],
    evidence: dict[Key, Evidence],
    updates: Sequence[UpdateResult],
) -> list[dict[str, Any]]:
    """One dict per completion: what it was, and sums over its tokens. All other rows are aggregated from these.

    Completions of groups that the filter dropped have no log-probs on the training image and lack those sums.
    """
    facts: list[dict[str, Any]] = []
    sums = {key: values for update in updates for key, values in update.sums.items()}
    for group in progress.groups():
        for rollout in group.rollouts:
            key = rollout.key
            row: dict[str, Any] = {
                "rollout": rollout,
                "problem": group.problem,
                "grade": progress.grades[key],
                "view": rollout.view,
                "tokens": len(rollout.token_ids),
                "reward": progress.rewards[key],
                "overlong_penalty": progress.penalties[key],
                "advantage": advantages.get(key, NAN),
                "trained": key in evidence,
                "entropy_sampled_image": rollout.completion.sampler_entropy.sum().item(),
                "sampler_nll": -rollout.completion.sampler_logprobs.sum().item(),
                "removed_mass": rollout.completion.removed_mass.sum().item(),
                **mismatch_facts(rollout.completion, evidence[key].engine_weight if key in evidence else None),
            }
            if key in evidence:
                row |= {"control_coef": evidence[key].entropy_weight, **_token_sums(rollout, evidence[key])}
                row |= sums.get(key, {})
            facts.append(row)
    return facts


def _token_sums(rollout: Rollout, evidence: Evidence) -> dict[str, Any]:
    """Sums over the tokens of a trained completion, with the weights before the step's first update."""
    score = evidence.measured
    entropy, band = score.entropy, bands(score.entropy)
    sampler = rollout.completion.sampler_logprobs.to(score.logprobs)
    row: dict[str, Any] = {
        "entropy": entropy.sum().item(),
        "entropy_t1": score.entropy_t1.sum().item(),
        "nll": -score.logprobs.sum().item(),
        "view_gap": (sampler - score.logprobs).sum().item(),
    }
    if evidence.pair is not None:
        row["degenerate"] = float(evidence.degenerate)
    for number, name in enumerate(BANDS):
        row[f"entropy_{name}"] = entropy[band == number].sum().item()
        row[f"tokens_{name}"] = int((band == number).sum())
    return row


def summarise(facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The columns that `steps` and `views` share, over any set of completions."""
    tokens = sum(fact["tokens"] for fact in facts)

    def per_token(name: str, counted: str = "tokens") -> float:
        known = [(fact[name], fact[counted]) for fact in facts if name in fact]
        count = sum(tokens for _, tokens in known)
        return sum(value for value, _ in known) / count if count else NAN

    def per_completion(values: list[Any]) -> float:
        return float(np.mean(values)) if values else NAN

    by_group: dict[str, list[dict[str, Any]]] = {}
    for fact in facts:
        by_group.setdefault(fact["problem"].problem_id, []).append(fact)
    equal_reward = [len({fact["reward"] for fact in group}) == 1 for group in by_group.values()]
    equal_accuracy = [len({fact["grade"].accuracy for fact in group}) == 1 for group in by_group.values()]
    return {
        "reward": per_completion([fact["reward"] for fact in facts]),
        "reward_accuracy": per_completion([fact["grade"].accuracy for fact in facts]),
        "reward_format": per_completion([fact["grade"].format for fact in facts]),
        "entropy": per_token("entropy"),
        "entropy_t1": per_token("entropy_t1"),
        "entropy_sampled_image": per_token("entropy_sampled_image"),
        "nll": per_token("nll"),
        **{f"entropy_{name}": per_token(f"entropy_{name}", f"tokens_{name}") for name in BANDS},
        "completion_length": tokens / len(facts),
        "truncated_share": per_completion([not fact["rollout"].completion.finished for fact in facts]),
        "zero_signal_share": float(np.mean(equal_reward)),
        "format_only_share": float(np.mean(np.array(equal_accuracy) & ~np.array(equal_reward))),
        "unique_answers": float(
            np.mean([len({fact["grade"].answer for fact in group}) for group in by_group.values()])
        ),
        "overlong_penalty": per_completion([fact["overlong_penalty"] for fact in facts]),
        "groups_sampled": len(by_group),
        "groups_trained": len({fact["problem"].problem_id for fact in facts if fact["trained"]}),
        "advantage_mean": per_completion([fact["advantage"] for fact in facts if fact["trained"]]),
        "control_coef": per_completion([fact["control_coef"] for fact in facts if fact["trained"]]),
        "selected_share": per_token("selected"),
        "picked_share": per_token("picked"),
        "score_degenerate_share": per_completion([fact["degenerate"] for fact in facts if "degenerate" in fact]),
        "clip_low_share": per_token("clip_low"),
        "clip_high_share": per_token("clip_high"),
        "kl": per_token("kl"),
        "view_gap": per_token("view_gap"),
        "removed_mass": per_token("removed_mass"),
        "importance_ratio_mean": per_token("importance_ratio"),
        "grade_failure_share": per_completion([fact["grade"].status in GRADE_FAILURES for fact in facts]),
        "tokens_generated": tokens,
    }


def view_rows(step: int, facts: Sequence[dict[str, Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the `views` table, in group-plan order."""
    rows = []
    for view in dict.fromkeys(fact["view"] for fact in facts):
        own = [fact for fact in facts if fact["view"] == view]
        known: dict[str, Any] = {"step": step, "view": view, "completions": len(own), **summarise(own)}
        rows.append({name: known[name] for name in columns})
    return rows


def rollout_rows(step: int, facts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the `rollouts` table: entropy and NLLs are means over the completion's own tokens."""
    return [
        {
            "step": step,
            "problem_id": fact["problem"].problem_id,
            "view": fact["view"],
            "index": fact["rollout"].index,
            "text": storable(fact["rollout"].text),
            "answer": fact["problem"].answer,
            "tokens": fact["tokens"],
            "finished": fact["rollout"].completion.finished,
            "reward": fact["reward"],
            "reward_accuracy": fact["grade"].accuracy,
            "reward_format": fact["grade"].format,
            "grade_status": fact["grade"].status,
            "advantage": fact["advantage"],
            "trained": fact["trained"],
            "image_hash": fact["rollout"].image_hash,
            **{name: fact.get(name, NAN) / fact["tokens"] for name in ROLLOUT_MEANS},
        }
        for fact in facts
    ]


def attack_rows(
    step: int, ledger: Sequence[AttackRow], fresh: dict[tuple[str, str], tuple[float, float]]
) -> list[dict[str, Any]]:
    """Rows of the `attacks` table; `fresh[view, problem_id]` = entropies of fresh completions (clean, moved)."""
    rows = []
    for row in ledger:
        clean, moved = fresh.get((row.view, row.problem_id), (NAN, NAN))
        measured = {"fresh_entropy_clean": clean, "fresh_entropy_moved": moved, "matched": _matched(row)}
        facts = asdict(row)
        del facts["kept"]  # positions of tokens, which go with the picture
        rows.append({"step": step, **facts, **measured})
    return rows


def _matched(row: AttackRow) -> bool:
    """Is this control as large (L2) as the attack it stands for? True for what is no control."""
    return math.isnan(row.l2_reference) or abs(row.l2 - row.l2_reference) <= MATCH_TOLERANCE * row.l2_reference


def attack_summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The attack's columns of `steps`: means over problems; NaN where the plan has no attack."""
    names = ("attack_gain", "attack_moved_share", "attack_linf", "attack_unmatched_share", "fresh_gain")
    if not rows:
        return dict.fromkeys(names, NAN)
    gains = [row["entropy_after"] - row["entropy_before"] for row in rows]
    known = [gain for gain in gains if not math.isnan(gain)]
    controls = [row for row in rows if not math.isnan(row["l2_reference"])]
    return {
        "attack_gain": float(np.mean(known)) if known else NAN,
        "attack_unmatched_share": float(np.mean([not row["matched"] for row in controls])) if controls else NAN,
        "attack_moved_share": float(np.mean([row["moved"] for row in rows])),
        "attack_linf": float(max(row["linf"] for row in rows)),
        "fresh_gain": float(np.mean([row["fresh_entropy_moved"] - row["fresh_entropy_clean"] for row in rows])),
    }


def step_row(
    step: int,
    facts: Sequence[dict[str, Any]],
    attacks: Sequence[dict[str, Any]],
    results: Sequence[UpdateResult],
    clock: Clock,
    **known_already: Any,
) -> dict[str, Any]:
    """The row of the `steps` table; `known_already` holds the columns that are not computed here."""
    phases = [name for name in STEPS if name.startswith("time_") and name != "time_step"]
    known = {
        "step": step,
        **known_already,
        **summarise(facts),
        "loss": float(np.mean([update.loss for update in results])) if results else NAN,
        "grad_norm": float(np.mean([update.grad_norm for update in results])) if results else NAN,
        "skipped_updates": sum(update.skipped for update in results),
        **attack_summary(attacks),
        **mismatch_summary(facts),
        **{phase: clock.seconds.get(phase.removeprefix("time_"), 0.0) for phase in phases},
        "time_step": clock.total(),
    }
    return {name: known[name] for name in STEPS}


def storable(text: str) -> str:
    """Model text as parquet can hold it: lone surrogates become the replacement character."""
    return text.encode("utf-8", "replace").decode("utf-8")
