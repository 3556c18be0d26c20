"""Which tokens count: in the attack's objective, in the policy loss, and what their scores are measured against."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, ClassVar, Literal

from saei.settings.rules import require
from saei.units import SHARE

Share = Annotated[Fraction, SHARE]
_THIRD = Fraction(1, 3)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRule:
    """A selection of completion tokens; the attack and the policy loss each have one of their own."""

    group: ClassVar[str] = "select"

    rule: str = "band"
    """`band` (drop_low, drop_high), `all`, `top`, `bottom`, `middle`, `random` (share), or an adaptive band: `mass`
    (drop shares of the summed score), `otsu` (two thresholds found), `quantile` (thresholds run over steps)."""
    score: str = "entropy"
    """What tokens are ranked by: `entropy`; `vepo`, `vepo_no_coupling`, `vepo_no_vision` and VEPO's other variants;
    `dependency` (VPPO). All but `entropy` need score.view."""
    drop_low: Share = _THIRD
    """Share of lowest-scored tokens that the bands drop (TsEC: 1/3)."""
    drop_high: Share = _THIRD
    """Share of highest-scored tokens that the bands drop (TsEC: 1/3)."""
    share: Share = _THIRD
    """Share of tokens kept by `top`, `bottom`, `middle` and `random`."""
    count: Literal["band", "ceil"] = "band"
    """How many tokens a share is: as many as the centred band of that share keeps, or the share rounded up (80/20)."""
    scope: Literal["response", "group", "batch", "micro_batch"] = "response"
    """Rank tokens within each completion, over the problem's group, over the update batch, or in each micro-batch."""
    denominator: Literal["selected", "all"] = "selected"
    """Divide by the selected tokens, or by all completion tokens (a share of 1/5 then learns 5 times slower)."""

    def __post_init__(self) -> None:
        name = self.group
        for drop in ("drop_low", "drop_high"):
            value = getattr(self, drop)
            require(0 <= value < 1, f"{name}.{drop} is a share in [0, 1), got {value}")
        require(
            self.drop_low + self.drop_high < 1,
            f"{name}.drop_low + {name}.drop_high must be < 1 or no token is kept, got "
            f"{self.drop_low} + {self.drop_high}",
        )
        require(0 < self.share <= 1, f"{name}.share must be in (0, 1], got {self.share}")
        if self.rule in ("band", "mass", "quantile"):
            require(
                self.share == _THIRD,
                f"{name}.share is {self.share}, but rule {self.rule} keeps what drop_low and drop_high leave; set "
                f"those, or choose {name}.rule top, bottom, middle or random",
            )
        else:
            require(
                (self.drop_low, self.drop_high) == (_THIRD, _THIRD),
                f"{name}.drop_low and {name}.drop_high belong to rules band, mass and quantile and do nothing for "
                f"{self.rule}; set {name}.share, or choose {name}.rule band",
            )
        require(
            self.share == _THIRD or self.rule not in ("all", "otsu"),
            f"{name}.share is {self.share}, but rule {self.rule} takes no share",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectConfig(TokenRule):
    """Tokens in the attack's objective (TsEC)."""

    refresh: Literal["once", "each_iteration"] = "once"
    """Choose the tokens on the clean image only, or again on every iterate (matters when view.iterations > 1)."""

    def __post_init__(self) -> None:
        TokenRule.__post_init__(self)
        require(
            self.scope in ("response", "group"),
            f"select.scope is response or group, got {self.scope}: an attack sees one problem at a time",
        )
        require(
            self.refresh == "once" or self.score == "entropy",
            f"select.refresh each_iteration chooses by entropy, got select.score {self.score}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicySelectConfig(TokenRule):
    """Tokens in the policy loss (80/20, VEPO, VPPO); all by default."""

    group: ClassVar[str] = "policy_select"

    rule: str = "all"
    """As select.rule, for the tokens of the policy loss."""
    count: Literal["band", "ceil"] = "ceil"
    """As select.count."""
    weights: Literal["old", "current"] = "old"
    """Score tokens with the weights before the step's first update, or with those of the update itself."""

    def __post_init__(self) -> None:
        TokenRule.__post_init__(self)
        require(
            (self.weights == "current") == (self.scope == "micro_batch") or self.scope in ("response", "group"),
            f"policy_select.weights {self.weights} does not go with policy_select.scope {self.scope}: a micro-batch "
            "is ranked as it is met (current), a whole update batch before the step's first update (old)",
        )
        require(
            self.weights == "old" or (self.score == "entropy" and self.rule != "quantile"),
            f"policy_select.weights current has entropies only, got policy_select.score {self.score} and "
            f"policy_select.rule {self.rule}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """The image under which given completions are only scored: VEPO, VPPO, PAPO (DESIGN 4.3, `score_views`)."""

    view: str = "none"
    """`none`; `noise` (diffusion noise, VEPO), `mask` (black 14-pixel blocks, PAPO and VPPO), `no_image` (black)."""
    per: Literal["prompt", "response"] = "prompt"
    """One draw for all completions of a problem (VEPO, PAPO), or one for each (VPPO)."""
    noise_level: int = 500
    """Diffusion step of `noise`, of 1000."""
    mask_share: float = 0.6
    """Share of blocks that `mask` blackens (PAPO 0.6, VPPO 0.5)."""
    alpha: float = 0.7
    """Exponent of the divergence in VEPO's score, 1 - alpha that of the entropy gap."""

    def __post_init__(self) -> None:
        require(0 <= self.noise_level < 1000, f"score.noise_level is a diffusion step 0-999, got {self.noise_level}")
        require(0 <= self.mask_share <= 1, f"score.mask_share must be in [0, 1], got {self.mask_share:g}")
        require(0 <= self.alpha <= 1, f"score.alpha must be in [0, 1], got {self.alpha:g}")
