"""The words of a verdict, and the one rule that gives them.

Of an arm against another, over the seeds that both finished, by the p value it is judged by (the primary contrast's
own, Holm-adjusted for every other row):

1. At least half of the begun seeds of the arm, or of the one it is compared with, diverged (`health.diverged`):
   `diverged in k of n`, in place of any word on accuracy. Fewer: the word of rule 4 stands, and the count beside it.
   Diverged runs keep their accuracy in the means, always: leaving them out would flatter the arm.
2. No pair, one pair, two pairs: no verdict.
3. The same scores on every seed: that is what is said; there is no difference to judge.
4. `better` or `worse` where p is below 0.05, by the sign of the mean difference; else `not distinguishable`, and what
   it would take stands beside it: the smallest true difference that this many seeds would find with 80 % power, and
   the seeds that a difference of the size seen would need.

Where seeds of the plan are still to finish, `so far, S of N seeds` is added to a word of rule 4: to stop there because
the word pleases is a look, too. Where trials of either arm came after the plan's first launch, `exploratory: N looks`
is added: N is the number of launches that added to the pair. Each was a chance to stop at a fortunate moment, and no p
value accounts for it (`python -m analysis.simulation` says what it costs). Only the primary metric's split gets
verdicts.
"""

from dataclasses import dataclass

BETTER, WORSE, SAME = "better", "worse", "not distinguishable"
NO_PAIR, ONE_SEED, TWO_SEEDS = "no finished pair", "one seed, no interval", "two seeds, no verdict"
IDENTICAL = "the same scores on every seed"
"""A control that changes nothing, such as an attack of step 0."""
BASELINE = "baseline"
ALPHA = 0.05
SEEDS_FOR_P = 3
DIVERGED_SHARE = 0.5
"""From this share of an arm's begun seeds on, its divergence is the verdict."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diverged:
    """How many of an arm's begun seeds diverged, `count` of `begun`."""

    count: int = 0
    begun: int = 0

    def __str__(self) -> str:
        return f"diverged in {self.count} of {self.begun}"

    @property
    def decides(self) -> bool:
        """Rule 1: is this the verdict?"""
        return self.count > 0 and self.count >= DIVERGED_SHARE * self.begun


def word(pairs: int, difference: float, p: float) -> str:
    """Rules 2 and 4; `p` is the (adjusted) p value to judge by, `difference` the mean over `pairs` seeds."""
    if pairs < SEEDS_FOR_P:
        return (NO_PAIR, ONE_SEED, TWO_SEEDS)[pairs]
    # a p that is no number decides nothing
    if not p < ALPHA:
        return SAME
    return BETTER if difference > 0 else WORSE


def with_divergence(verdict: str, arm: Diverged, against: Diverged, reference: str) -> str:
    """Rule 1: the verdict in the place of which divergence stands; `reference` names the arm compared with."""
    if verdict == BASELINE:
        return f"{BASELINE}; {arm}" if arm.decides else verdict
    if arm.decides:
        return str(arm)
    return f"{reference} {against}" if against.decides else verdict


def remarks(verdict: str, arm: Diverged, failed: int, looks: "Looks") -> list[str]:
    """What stands beside a verdict: fewer divergences than decide, seeds that failed and have no score, looks."""
    said = [str(arm)] if arm.count and str(arm) not in verdict else []
    said += [f"{failed} failed {'seed' if failed == 1 else 'seeds'} without a score"] if failed else []
    return said + ([str(looks)] if looks.count else [])


@dataclass(frozen=True, kw_only=True, slots=True)
class Looks:
    """Launches after the first that added to a pair; `at_least` where an older plan did not number them."""

    count: int = 0
    at_least: bool = False

    def __str__(self) -> str:
        number = f"at least {self.count}" if self.at_least else str(self.count)
        return f"exploratory: {number} {'look' if self.count == 1 else 'looks'}"


def in_words(verdict: str, beside: list[str]) -> str:
    """The verdict with its remarks, e.g. `better (diverged in 1 of 5; exploratory: 2 looks)`."""
    return f"{verdict} ({'; '.join(beside)})" if beside else verdict
