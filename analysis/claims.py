"""What is claimed, asked and warned of: the rows of the reproduction card, and the figures that papers print.

Figures are the papers' own (SaEI: arXiv 2512.10414, of which only the abstract and digests were to be had; VEPO: arXiv
2606.03937) and unverified. Accuracies are shares; a gain is in the unit of its claim.
"""

from dataclasses import dataclass

SAEI, VEPO = "SaEI", "VEPO"
CLAIM, QUESTION = "claim", "question"
UNKNOWN = "not known"


@dataclass(frozen=True, kw_only=True, slots=True)
class Printed:
    """One accuracy and its reference on one benchmark. `items` None: how many items were scored is not known."""

    benchmark: str
    items: int | None
    score: float
    reference: float
    of_items: str = ""
    """Where the number of items comes from, if the paper does not print it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One row of the card. `gains` are the paper's differences as shares, () where it prints none or none is known.

    `beyond` says what runs of the tiny model on digits leave open, whatever they show.
    """

    id: str
    text: str
    reported: str
    beyond: str
    paper: str = SAEI
    kind: str = CLAIM
    gains: tuple[float, ...] = ()
    printed: tuple[Printed, ...] = ()
    scored_on: tuple[tuple[str, int], ...] = ()
    """Benchmarks and their numbers of items, where the accuracies are not known."""


GEOMETRY3K = 601
GEOMETRY_SCORES = Printed(
    benchmark="Geometry3K",
    items=GEOMETRY3K,
    score=0.5618,
    reference=0.5402,
    of_items="public test set; the figures fit 3 passes over it",
)
EUREKA_SCORES = Printed(
    benchmark="MM-Eureka", items=2000, score=0.6445, reference=0.6245, of_items="inferred: both figures fit n / 2,000"
)


def _seven(entropy_only: bool) -> tuple[Printed, ...]:
    """VEPO's table at 7B, seven benchmarks: entropy-only against GRPO, or VEPO against entropy-only."""
    table = {  # items, GRPO, entropy-only, VEPO
        "Geometry3K": (601, 49.42, 47.59, 51.58),
        "MMK12": (2000, 65.18, 64.93, 69.64),
        "HallusionBench": (951, 70.45, 68.56, 71.71),
        "MathVista": (1000, 71.60, 70.40, 72.00),
        "WeMath": (1740, 67.18, 67.13, 69.54),
        "MathVerse": (3940, 48.53, 48.25, 48.93),
        "MathVision": (3040, 27.40, 28.95, 28.31),
    }
    pairs = {name: row[2:0:-1] if entropy_only else row[3:1:-1] for name, row in table.items()}
    return tuple(
        Printed(
            benchmark=name,
            items=table[name][0],
            score=score / 100,
            reference=reference / 100,
            of_items="public test set",
        )
        for name, (score, reference) in pairs.items()
    )


PERHAPS = (("Geometry3K", GEOMETRY3K),)
"""Where the ablations were probably scored; the digests do not say."""
NOT_BENCHMARKS = "The sign at toy scale; nothing about the benchmarks' figures."
CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="C1",
        text="vanilla GRPO collapses policy entropy in visual RL",
        reported="entropy curve",
        beyond="A warm-started toy policy starts at low entropy: how deep a large model falls stays open.",
    ),
    Claim(
        id="C2",
        text="SaEI keeps entropy higher than GRPO throughout training",
        reported="entropy curve",
        beyond="Whether the attack moves a large vision encoder as little as a tiny one.",
    ),
    Claim(
        id="C3",
        text="SaEI beats GRPO in domain",
        reported="MM-Eureka 64.45 (+2.00), Geometry3K 56.18 (+2.16)",
        gains=(0.0200, 0.0216),
        printed=(GEOMETRY_SCORES, EUREKA_SCORES),
        beyond=f"{NOT_BENCHMARKS} 56.18 and 64.45 need the 7B model and the benchmarks.",
    ),
    Claim(
        id="C4",
        text="and out of domain: HallusionBench, MathVista, MathVerse, MathVision",
        reported=UNKNOWN,
        scored_on=(("HallusionBench", 951), ("MathVista", 1000), ("MathVerse", 3940), ("MathVision", 3040)),
        beyond="Shifted digits stand in for the four benchmarks; they are no mathematics.",
    ),
    Claim(
        id="C5",
        text="the middle third of tokens by entropy is the right objective (low = factual knowledge, high = noise)",
        reported="ablation; figures not known",
        scored_on=PERHAPS,
        beyond="The reason given: a tiny model has no factual knowledge to disturb.",
    ),
    Claim(
        id="C6",
        text="T = 1 with step 2/255 or 3/255 is best; stronger attacks become unstable (an inverted U)",
        reported="ablation; figures not known",
        scored_on=PERHAPS,
        beyond="Where the peak lies: grey levels act differently on another encoder and image size.",
    ),
    Claim(
        id="C7",
        text="mixing n1 = n2 = 6 clean and adversarial completions is best and more robust than clean only",
        reported="ablation; figures not known",
        scored_on=PERHAPS,
        beyond=NOT_BENCHMARKS,
    ),
    Claim(
        id="C8",
        text="SaEI beats KL-Cov (entropy control in the update) and NoisyRollout (random distortion in sampling)",
        reported="table; figures not known",
        scored_on=PERHAPS,
        beyond="The rivals' settings were tuned for large models, and which ones the paper used is not known.",
    ),
    Claim(
        id="V1",
        text="(VEPO) entropy-only token selection fails in visual RL because vision-sensitive tokens have low entropy",
        reported="-0.57 against GRPO at 7B",
        paper=VEPO,
        gains=(-0.0057,),
        printed=_seven(entropy_only=True),
        beyond="The reason given: it is a statement about tokens of long completions, ours have about 25.",
    ),
    Claim(
        id="V2",
        text="(VEPO) vision sensitivity (JSD, entropy gap under a noised image) coupled with entropy fixes it",
        reported="+2.28 at 7B, +3.15 at 3B over entropy-only",
        paper=VEPO,
        gains=(0.0228, 0.0315),
        printed=_seven(entropy_only=False),
        beyond=NOT_BENCHMARKS,
    ),
    Claim(
        id="Q1",
        text="is the equal three-way split optimal; are there adaptive selections?",
        reported="open question",
        kind=QUESTION,
        beyond="A completion has about 25 tokens here: a band of eight is coarse.",
    ),
    Claim(
        id="Q2",
        text="does the principle carry over to text inputs?",
        reported="open question",
        kind=QUESTION,
        beyond="The question is one templated sentence; free text stays open.",
    ),
    Claim(
        id="Q3",
        text="other visual domains than mathematics?",
        reported="open question",
        kind=QUESTION,
        beyond="Drawn shapes are another domain than digits, photographs and documents stay open.",
    ),
    Claim(
        id="Q4",
        text="larger step and T > 1: failure modes, limits, and can the instability be mitigated?",
        reported="open question",
        kind=QUESTION,
        beyond="At which strength a large model breaks.",
    ),
    Claim(
        id="N1",
        text="component ablation: full, without TsEC, other ratios, random token selection",
        reported="asked for by a reviewer",
        kind=QUESTION,
        beyond=NOT_BENCHMARKS,
    ),
    Claim(
        id="N2",
        text="transfer to tasks outside the benchmark suite",
        reported="asked for by a reviewer",
        kind=QUESTION,
        beyond="Real pictures (easy-VQA) enter only where their folder was present at the launch.",
    ),
    Claim(
        id="N3",
        text="robustness of the trained policy to attacks",
        reported="asked for by a reviewer",
        kind=QUESTION,
        beyond="Robustness of a tiny encoder says little about that of a large one.",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """GRPO's accuracy on the 601 test items of Geometry3K, Qwen2.5-VL-7B, as one source prints it."""

    score: float
    source: str
    settings: str


GRPO_READINGS: tuple[Reading, ...] = (
    Reading(
        score=0.48, source="EasyR1, table of baselines", settings="its defaults now: 5 completions, KL to a reference"
    ),
    Reading(score=0.4942, source="VEPO (arXiv 2606.03937)", settings="12 completions, Geometry3K and MMK12 together"),
    Reading(score=0.514, source="NoisyRollout (arXiv 2504.13055), main table", settings="12 completions"),
    Reading(
        score=0.520, source="NoisyRollout (arXiv 2504.13055), another table", settings="not told apart by the paper"
    ),
    Reading(score=0.5402, source="SaEI (arXiv 2512.10414), by subtraction", settings=UNKNOWN),
)
