"""Is the model there that a launch names? Asked once before anything is queued; nodes must still be able to load it."""

import os
import sys
from collections.abc import Sequence

from saei.identity import model_folder
from sweeps.trial import Trial

HUB_S = 10.0


def refuse_missing_models(trials: Sequence[Trial]) -> None:
    """Raise ValueError for a hub id that does not exist; say on standard error which cannot be checked from here.

    A folder was checked with the other settings (`saei.identity.model_source`).
    """
    wanted = {(trial.config.model.path, trial.config.model.revision) for trial in trials}
    for path, revision in sorted(wanted):
        doubt = _hub_doubt(path, revision) if model_folder(path) is None else ""
        if doubt:
            print(doubt, file=sys.stderr)


def _hub_doubt(path: str, revision: str) -> str:
    """What cannot be told about a hub id, or "". Raises ValueError where it surely is wrong."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        if isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str):
            return ""
    except HFValidationError as error:
        raise ValueError(f"model.path: there is no folder {path!r}, and it is no hub id: {error}") from error
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise ValueError(
            f"model.path: there is no folder {path!r}, no model of that name in this machine's cache, and "
            "HF_HUB_OFFLINE forbids to fetch it: correct the name, or run hf download where there is a network"
        )
    try:
        HfApi().model_info(path, revision=revision, timeout=HUB_S)
    except RevisionNotFoundError as error:
        raise ValueError(f"model.revision: {path} has no revision {revision!r} on the hub") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"model.path: there is no folder {path!r} and no model of that name on the hub (or it is closed to you: "
            "hf auth login); correct the name"
        ) from error
    except Exception as error:  # no network, a proxy, a hub in trouble: none of it says that the model is not there
        return (
            f"model.path: {path} is no folder and not in this machine's cache, and the hub does not answer "
            f"({type(error).__name__}): whether it exists cannot be told before the trials start"
        )
    return ""
