"""What every group of settings uses: the check that refuses, and the mark of a setting that changes no number."""

NOT_HASHED = {"hashed": False}
"""Metadata of a field that says where or how a run is kept, and cannot change a number in it."""


def require(condition: bool, sentence: str) -> None:
    """Raise ValueError(sentence) unless the condition holds."""
    if not condition:
        raise ValueError(sentence)
