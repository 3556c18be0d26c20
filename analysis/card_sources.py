"""Which sweep may speak to which claim, by which arms and which measure: fixed here, before any result is looked at.

A claim has one or more parts that are all needed; a part has alternatives in order. Of the alternatives the card takes
the one that answers most of the claim's contrasts with three paired seeds or more, of these the one with most seeds,
the first listed among equals; one that only stands in for the claim's own contrast (`stand_in`) comes after all others.
Sweeps are never pooled, and no size of any difference enters the choice.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """Mean of `arms` minus mean of `against`, seed by seed. Without `against`: the same arms by the panel's `base`."""

    label: str
    arms: tuple[str, ...]
    against: tuple[str, ...]
    degree: bool = False
    """Does it only say whether the claim holds in full (and, going the other way, does not contradict it)?"""
    base: str = ""
    """Measure of `against`, where it is another one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One sweep's contrasts on one measure. `sign` is the direction that is claimed; 0 for a question."""

    sweep: str
    contrasts: tuple[Contrast, ...]
    measure: str = "test_accuracy"
    unit: str = "points"
    sign: int = 1
    stand_in: str = ""
    """What else differs between the arms, where this is not the claim's own contrast."""


Alternatives = tuple[Panel, ...]

SAEI_AND_GRPO: dict[str, tuple[str, str]] = {
    "components": ("saei", "grpo"),
    "tsec_ratio": ("middle_1_3", "grpo"),
    "group_split": ("split_6_6", "split_12_0"),
    "transfer": ("saei", "grpo"),
    "robustness": ("saei", "grpo"),
    "collapse": ("saei", "grpo"),
    "methods": ("saei", "grpo"),
    "step_size": ("step_2", "grpo"),
    "pgd_iterations": ("once", "grpo"),
    "adaptive_band": ("thirds", "grpo"),
    "text_attack": ("image", "grpo"),
    "attack_strength": ("step_2", "grpo"),
    "credit": ("saei", "grpo"),
    "controls": ("egas", "none"),
}
"""Sweep -> its arm with the paper's settings, and its plain GRPO with as many completions."""


def _minus(label: str, arm: str, against: str) -> Contrast:
    return Contrast(label=label, arms=(arm,), against=(against,))


def _against_each(first: str, arm: str, others: dict[str, str]) -> tuple[Contrast, ...]:
    return tuple(_minus(f"{first} − {words}", arm, other) for words, other in others.items())


def _saei_minus_grpo(
    measure: str, on: str = "", *, unit: str = "points", sign: int = 1, first: str = "components"
) -> Alternatives:
    """SaEI minus GRPO in every sweep that has both; `first` is the one that was planned for the claim."""
    return tuple(
        Panel(
            sweep=sweep,
            contrasts=(_minus(f"SaEI − GRPO{on}", *SAEI_AND_GRPO[sweep]),),
            measure=measure,
            unit=unit,
            sign=sign,
        )
        for sweep in sorted(SAEI_AND_GRPO, key=lambda name: name != first)
    )


def _fall(sweep: str, grpo: str) -> Panel:
    end = Contrast(label="fall (end − start)", arms=(grpo,), against=(grpo,), base="entropy_at_start")
    mark = Contrast(
        label="collapse (end − 30 % of start)", arms=(grpo,), against=(grpo,), base="collapse_mark", degree=True
    )
    return Panel(sweep=sweep, contrasts=(end, mark), measure="entropy_at_end", unit="nats", sign=-1)


_THIRDS = {"low third": "low_third", "high third": "high_third", "random third": "random_third", "all": "no_tsec"}
_THIRDS_OF_COMPONENTS = {
    "low third": "bottom_third",
    "high third": "top_third",
    "random third": "random_third",
    "all": "no_tsec",
}
_OTHER_SPLITS = {
    "12:0": "split_12_0",
    "10:2": "split_10_2",
    "8:4": "split_8_4",
    "4:8": "split_4_8",
    "2:10": "split_2_10",
}
_PEAK = ("step_2", "step_3")

SOURCES: dict[str, tuple[Alternatives, ...]] = {
    "C1": (
        tuple(
            _fall(sweep, SAEI_AND_GRPO[sweep][1])
            for sweep in sorted(SAEI_AND_GRPO, key=lambda name: name != "collapse")
        ),
    ),
    "C2": (_saei_minus_grpo("entropy_over_training", ", mean over training", unit="nats"),),
    "C3": (_saei_minus_grpo("test_accuracy"),),
    "C4": (_saei_minus_grpo("shifted_accuracy", ", shifted sets"),),
    "C5": (
        (
            Panel(sweep="tsec_ratio", contrasts=_against_each("middle third", "middle_1_3", _THIRDS)),
            Panel(sweep="components", contrasts=_against_each("middle third", "saei", _THIRDS_OF_COMPONENTS)),
        ),
    ),
    "C6": (
        (
            Panel(
                sweep="step_size",
                contrasts=(
                    Contrast(label="steps 2 and 3 − step 0", arms=_PEAK, against=("step_0",)),
                    Contrast(label="steps 2 and 3 − step 8", arms=_PEAK, against=("step_8",)),
                ),
            ),
        ),
        (Panel(sweep="pgd_iterations", contrasts=(_minus("T = 1 − T = 3", "once", "thrice_wide_ball"),)),),
    ),
    "C7": (
        (Panel(sweep="group_split", contrasts=_against_each("6:6", "split_6_6", _OTHER_SPLITS)),),
        (
            Panel(
                sweep="group_split",
                contrasts=(_minus("6:6 − 12:0, shifted sets", "split_6_6", "split_12_0"),),
                measure="shifted_accuracy",
            ),
        ),
    ),
    "C8": (
        (Panel(sweep="methods", contrasts=(_minus("SaEI − KL-Cov", "saei", "kl_cov"),)),),
        tuple(
            Panel(sweep=sweep, contrasts=(_minus("SaEI − NoisyRollout", "saei", "noisyrollout"),))
            for sweep in ("methods", "transfer", "robustness", "credit")
        ),
    ),
    "V1": (
        (
            Panel(
                sweep="selection",
                contrasts=(_minus("top fifth by entropy − all tokens", "entropy_response", "all_tokens"),),
                sign=-1,
            ),
            Panel(
                sweep="methods",
                contrasts=(_minus("80/20 − GRPO", "top_entropy", "grpo"),),
                sign=-1,
                stand_in="80/20 also clips higher, ranks over the batch and penalises long completions",
            ),
        ),
    ),
    "V2": (
        (
            Panel(sweep="selection", contrasts=(_minus("VEPO − top fifth by entropy", "vepo", "entropy_response"),)),
            Panel(
                sweep="methods",
                contrasts=(_minus("VEPO − 80/20", "vepo", "top_entropy"),),
                stand_in="80/20 also clips higher, ranks over the batch and penalises long completions",
            ),
        ),
    ),
    "Q1": (
        (
            Panel(
                sweep="adaptive_band",
                contrasts=(
                    _minus("Otsu's band − thirds", "otsu", "thirds"),
                    _minus("entropy mass − thirds", "entropy_mass", "thirds"),
                    _minus("running quantiles − thirds", "running_quantiles", "thirds"),
                ),
                sign=0,
            ),
        ),
        (
            Panel(
                sweep="tsec_ratio",
                contrasts=(
                    _minus("middle 3/5 − middle third", "middle_3_5", "middle_1_3"),
                    _minus("middle 1/2 − middle third", "middle_1_2", "middle_1_3"),
                    _minus("middle 1/5 − middle third", "middle_1_5", "middle_1_3"),
                ),
                sign=0,
            ),
        ),
    ),
    "Q2": (
        (
            Panel(
                sweep="text_attack", contrasts=(_minus("text attack − text attack of 0", "text_10", "text_0"),), sign=0
            ),
        ),
    ),
    "Q3": (_saei_minus_grpo("shapes_accuracy", ", drawn shapes", sign=0, first="transfer"),),
    "Q4": (
        (
            Panel(
                sweep="attack_strength",
                contrasts=(
                    _minus("step 16 − step 2", "step_16", "step_2"),
                    _minus("step 2, T = 4 − T = 1", "step_2_t4_wide", "step_2"),
                    _minus("step 32, back-off − none", "step_32_back_off", "step_32"),
                    _minus("step 32, only mixed groups − all", "step_32_only_mixed", "step_32"),
                    _minus("step 32, annealed − constant", "step_32_annealed", "step_32"),
                ),
                sign=0,
            ),
        ),
    ),
    "N1": (
        (
            Panel(
                sweep="components",
                contrasts=_against_each(
                    "SaEI",
                    "saei",
                    {
                        "no TsEC": "no_tsec",
                        "random third": "random_third",
                        "random direction": "random_sign",
                        "step 0": "step_zero",
                        "GRPO at its cost": "grpo_matched",
                    },
                ),
                sign=0,
            ),
        ),
        (
            Panel(
                sweep="tsec_ratio",
                contrasts=_against_each(
                    "SaEI", "middle_1_3", {"3/5": "middle_3_5", "1/2": "middle_1_2", "1/5": "middle_1_5"}
                ),
                sign=0,
            ),
        ),
    ),
    "N2": (_saei_minus_grpo("transfer_accuracy", ", other sources", sign=0, first="transfer"),),
    "N3": (_saei_minus_grpo("change_under_attack", ", change under attack", sign=0, first="robustness"),),
}
