"""From outputs to verdicts: rules first, sympy in the grader processes, and the judge, where there is one, last.

What rules cannot decide and no judge is asked about is `undecided`: counted wrong in every score, and shown.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from saei.benchmarks.item import JUDGE, UNDECIDED, Ask, Benchmark, Item, Reading, Settled, Task, Verdict
from saei.graders.pool import Outcome, WorkerPool

LONGEST_ANSWER = 2000  # characters; the longest gold of the data sets has 941
TOO_LONG = "too_long"


def decide(
    benchmark: Benchmark,
    outputs: Sequence[str],
    items: Sequence[Item],
    pool: WorkerPool,
    *,
    ask: Ask | None = None,
    ask_always: bool = False,
    threads: int = 1,
) -> list[Verdict]:
    """The verdict on each output of each item.

    `ask` is the judge. It is asked about what the rules leave undecided; with `ask_always` about every item of a
    benchmark whose official scoring asks one.
    """
    always = ask is not None and ask_always and benchmark.judge is not None
    readings = [
        Reading(None, "") if always else benchmark.read(output, item)
        for output, item in zip(outputs, items, strict=True)
    ]
    verdicts = _settled(benchmark, readings, items, pool)
    if ask is None or benchmark.judge is None:
        return verdicts
    open_ones = [i for i, verdict in enumerate(verdicts) if verdict.decided_by == UNDECIDED]
    judged = _judged(benchmark, [outputs[i] for i in open_ones], [items[i] for i in open_ones], ask, threads)
    by_rule = _settled(benchmark, [reading for reading, _, _ in judged], [items[i] for i in open_ones], pool)
    for i, (reading, right, replies), settled in zip(open_ones, judged, by_rule, strict=True):
        known = settled if right is None and settled.decided_by != UNDECIDED else None
        verdicts[i] = Verdict(
            right=known.right if known else bool(right),
            parse=reading.answer or "",
            decided_by=JUDGE if known or right is not None else UNDECIDED,
            status=known.status if known else "ok" if right is not None else "judge_unclear",
            judge_reply=replies,
        )
    return verdicts


def _settled(
    benchmark: Benchmark, readings: Sequence[Reading], items: Sequence[Item], pool: WorkerPool
) -> list[Verdict]:
    """Verdicts by rules alone."""
    found = [_one_settled(benchmark, reading, item) for reading, item in zip(readings, items, strict=True)]
    outcomes = _compared([settled for settled in found if settled is not None], pool)
    return [_verdict(reading, settled, outcomes) for reading, settled in zip(readings, found, strict=True)]


def _one_settled(benchmark: Benchmark, reading: Reading, item: Item) -> Settled | None:
    if reading.answer is None:
        return None
    too_long = len(reading.answer) > LONGEST_ANSWER
    return Settled(False, TOO_LONG) if too_long else benchmark.settle(reading.answer, item)


def _compared(found: Sequence[Settled], pool: WorkerPool) -> dict[tuple[str, Task], Outcome]:
    """Each different task once, by rule."""
    outcomes: dict[tuple[str, Task], Outcome] = {}
    for rule in dict.fromkeys(settled.rule for settled in found if settled.tasks):
        tasks = list(dict.fromkeys(task for settled in found if settled.rule == rule for task in settled.tasks))
        outcomes |= {(rule, task): outcome for task, outcome in zip(tasks, pool.compare(tasks, rule), strict=True)}
    return outcomes


def _verdict(reading: Reading, settled: Settled | None, outcomes: dict[tuple[str, Task], Outcome]) -> Verdict:
    parse = reading.answer or ""
    if settled is None:
        return Verdict(right=False, parse=parse, decided_by=UNDECIDED)
    if settled.right is not None:
        status = TOO_LONG if settled.rule == TOO_LONG else "ok"
        return Verdict(right=settled.right, parse=parse, decided_by=reading.by, status=status)
    mine = [outcomes[settled.rule, task] for task in settled.tasks]
    if any(right for right, _ in mine):
        return Verdict(right=True, parse=parse, decided_by=reading.by)
    statuses = [status for _, status in mine if status != "ok"]
    unsure = not mine or any(status in settled.unsure for status in statuses)
    status = statuses[0] if statuses else "ok"
    return Verdict(right=False, parse=parse, decided_by=UNDECIDED if unsure else reading.by, status=status)


def _judged(
    benchmark: Benchmark, outputs: Sequence[str], items: Sequence[Item], ask: Ask, threads: int
) -> list[tuple[Reading, bool | None, str]]:
    """What the judge read, its own verdict where it gives one, and its replies; `threads` items at a time."""
    question: Callable[[str, Item, Ask], tuple[Reading, bool | None]] | None = benchmark.judge
    assert question is not None, "the caller has looked"

    def one(output: str, item: Item) -> tuple[Reading, bool | None, str]:
        replies: list[str] = []

        def heard(prompt: str) -> str:
            replies.append(ask(prompt))
            return replies[-1]

        reading, right = question(output, item, heard)
        return reading, right, "\n".join(replies)

    workers = ThreadPoolExecutor(max_workers=threads)
    try:
        return list(workers.map(one, outputs, items))
    finally:  # a judge that is gone is not asked about all the others
        workers.shutdown(cancel_futures=True)
