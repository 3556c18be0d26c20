"""Units of the command line: grey levels (`2` or `2/255`) and exact shares (`1/3`), parsed and checked."""

import re
from fractions import Fraction

from tyro.constructors import PrimitiveConstructorSpec


def parse_grey_levels(text: str, name: str = "a pixel size") -> float:
    """`2` or `2/255` -> 2.0 grey levels. Raises ValueError for anything that is probably a unit mistake."""
    try:
        levels = float(re.sub(r"\s*/\s*255\s*$", "", text))
    except ValueError:
        raise ValueError(f"{name} is a number of grey levels such as 2 or 2/255, got {text!r}") from None
    check_grey_levels(name, levels)
    return levels


def check_grey_levels(name: str, levels: float) -> None:
    """Refuse negative sizes and sizes that look like a share of the [0, 1] range."""
    if levels < 0:
        # the paper's own notation, the likeliest source of a negative number here
        raise ValueError(
            f"{name} must be >= 0, got {levels:g}: the paper prints -2/255 for descent on -H; write 2/255; "
            "for entropy descent use --view.direction descend"
        )
    if 0 < levels < 0.5:
        meant = f"did you mean {max(1, round(levels * 255))}/255?" if levels < 0.13 else "write 0, or at least 1/255"
        raise ValueError(
            f"{name} is in grey levels (0-255), got {levels:g}: below half a level nothing survives rounding; {meant}"
        )
    if not levels <= 255:
        raise ValueError(f"{name} is in grey levels and at most 255, got {levels:g}")


def grey_levels_argument(name: str) -> PrimitiveConstructorSpec:
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="LEVELS",
        instance_from_str=lambda args: parse_grey_levels(args[0], name),
        is_instance=lambda value: isinstance(value, int | float),
        str_from_instance=lambda value: [f"{value:g}/255"],
    )


def optional_grey_levels_argument(name: str) -> PrimitiveConstructorSpec:
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="LEVELS|none",
        instance_from_str=lambda args: None if args[0].lower() == "none" else parse_grey_levels(args[0], name),
        is_instance=lambda value: value is None or isinstance(value, int | float),
        str_from_instance=lambda value: ["none" if value is None else f"{value:g}/255"],
    )


def parse_share(text: str) -> Fraction:
    """`1/3` or `0.2` -> an exact fraction."""
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"a share is a fraction such as 1/3 or 0.2, got {text!r}") from None


SHARE = PrimitiveConstructorSpec(
    nargs=1,
    metavar="SHARE",
    instance_from_str=lambda args: parse_share(args[0]),
    is_instance=lambda value: isinstance(value, Fraction),
    str_from_instance=lambda value: [str(value)],
)
