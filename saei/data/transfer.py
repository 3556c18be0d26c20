"""Test sets of other sources than the run's own, as `eval.transfer` names them (claims.md Q3, N2)."""

from dataclasses import replace
from pathlib import Path

from saei.config import Config, DataConfig
from saei.data import SOURCES, fingerprint, load_problems


def transfer_sets(config: Config) -> dict[str, tuple[DataConfig, str]]:
    """Name in the tables -> where its problems are: `load_problems(data, split)`.

    The name is `source/split`, or `folder/split` for the sources `local` and `hub`; images and prompts are made with
    the run's own limits and texts. Raises ValueError, in a sentence, for a source, split or folder that is not there
    or cannot be read, and for two sets of one name.
    """
    sets: dict[str, tuple[DataConfig, str]] = {}
    for entry in config.eval.transfer:
        name, data, split = _read(entry, config.data)
        if name in sets:
            raise ValueError(f"eval.transfer: {entry!r} is the second set called {name}; leave one of them out")
        sets[name] = data, split
    return sets


_WANTED = {"local": "local/SPLIT/FOLDER", "hub": "hub/SPLIT/HUB_ID, or hub/SPLIT/DATASET=FOLDER for a local copy"}


def _read(entry: str, own: DataConfig) -> tuple[str, DataConfig, str]:
    """One entry: its name, the settings under which it is loaded, its split."""
    source, split, *rest = entry.split("/", 2)
    path = rest[0] if rest else ""
    if source not in SOURCES:
        raise ValueError(f"eval.transfer: {entry!r} names the source {source!r}; sources: {', '.join(SOURCES)}")
    if (source in ("local", "hub")) != bool(path):
        wanted = _WANTED.get(source, f"{source}/SPLIT, without a folder")
        raise ValueError(f"eval.transfer: {entry!r} should read {wanted}")
    dataset, equals, folder = path.partition("=") if source == "hub" else ("", "", "")
    path = folder if equals else path
    # no other split of the set is read, and a folder may have no other
    data = replace(
        own,
        source=source,
        path=path,
        dataset=dataset if equals else "",
        revision="",
        config="",
        columns=(),
        text_only="skip",
        drop_shared_figures=False,
        train_split=split,
        validation_split=split,
        test_split=split,
        shifted_splits=(),
    )
    try:
        load_problems(data, split)
    except ValueError as error:
        raise ValueError(f"eval.transfer: {entry!r} cannot be loaded: {error}") from error
    return f"{Path(path).expanduser().resolve().name if path else source}/{split}", data, split


def transfer_fingerprints(config: Config) -> dict[str, str]:
    """Name of each transfer set -> sha256 of what determines its problems, for the trial's hash.

    Paths do not enter: the same files in another folder of that name are the same set.
    """
    return {name: fingerprint(data) for name, (data, _) in transfer_sets(config).items()}
