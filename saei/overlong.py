"""Soft punishment of long completions (DAPO, arXiv 2503.14476; methods.md 4.3)."""


def overlong_penalty(tokens: int, *, max_new_tokens: int, buffer: int, penalty: float) -> float:
    """What is subtracted from the reward of a completion of `tokens` tokens, end token included.

    0 up to max_new_tokens - buffer, then linear to `penalty` at max_new_tokens, whether the completion had finished
    there or was cut. `buffer` 0: none at all.
    """
    if buffer == 0:
        return 0.0
    over = tokens - (max_new_tokens - buffer)
    return penalty * min(max(over, 0), buffer) / buffer
