"""Outputs of R1-V's models (GeoQA, CLEVR counts): the answer stands in `<answer>` tags, and mathematics is compared.

Not a benchmark of the command line: it serves the comparison with R1-V's published outputs and verdicts.
"""

from saei.benchmarks.item import Item, Reading, Settled
from saei.graders.extract import boxed_answer
from saei.graders.latex import settled

OPEN, CLOSE = "<answer>", "</answer>"


def read(output: str, item: Item) -> Reading:
    """The content of the last `<answer>` tag, else of the last box."""
    _, found, rest = output.rpartition(OPEN)
    if found:
        answer = rest.partition(CLOSE)[0].strip()
        return Reading(boxed_answer(answer) or answer, "answer tag")
    return Reading(boxed_answer(output) or "", "boxed")


def settle(answer: str, item: Item) -> Settled:
    """Equal spelling, numbers, or mathematics in a grader process."""
    if not answer:
        return Settled(False)
    known = settled(answer, item.gold)
    return Settled(known) if known is not None else Settled(None, "mathematics", ((answer, item.gold),))
