"""Finding the answer in a completion. Completions are hostile text: every function here takes linear time."""

OPEN, CLOSE, BOXED = "<think>", "</think>", "\\boxed{"


def boxed_answer(text: str) -> str | None:
    r"""Content of the last `\boxed{...}`, braces balanced, outer white space off; None: no box, unclosed or empty.

    An escaped brace (`\{`) is a sign, not a bracket. An unclosed last box is a completion cut short: an earlier box is
    then not its answer.
    """
    start = text.rfind(BOXED)
    if start < 0:
        return None
    start += len(BOXED)
    depth, position = 1, start
    while position < len(text):
        sign = text[position]
        if sign == "\\":
            position += 1
        elif sign == "{":
            depth += 1
        elif sign == "}":
            depth -= 1
            if depth == 0:
                return text[start:position].strip() or None
        position += 1
    return None


def has_format(text: str) -> bool:
    r"""Whether the whole text matches `<think>.*</think>.*\boxed{.*}.*`, DOTALL (EasyR1's math reward).

    Each part is looked for behind the earliest place of the one before, which finds a match whenever there is one and
    needs no backtracking.
    """
    if not text.startswith(OPEN):
        return False
    position = len(OPEN)
    for part in (CLOSE, BOXED, "}"):
        position = text.find(part, position)
        if position < 0:
            return False
        position += len(part)
    return True
