"""What every group of settings uses: the check that refuses, and the mark of a setting that changes no number."""

NOT_HASHED = {"hashed": False}
"""Metadata of a field that says where or how a run is kept, and cannot change a number in it."""

ADDED_LATER = {"added_later": True}
"""Metadata of a field whose default does what was done before there was the field: at its default it is left out of a
trial's hash, so that earlier trials keep their names."""


def require(condition: bool, sentence: str) -> None:
    """Raise ValueError(sentence) unless the condition holds."""
    if not condition:
        raise ValueError(sentence)
