"""The catalogue of known data sets (`catalog.toml`) and of published prompts (`prompts.toml`), typed and checked."""

import tomllib
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.resources import files
from typing import Literal

from saei.config import DataConfig

_GENERIC_ID = "a set that no catalogue row describes"


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogEntry:
    """How the columns of one data set become problems; the fields are explained at the head of `catalog.toml`.

    `id_columns` together name a row where no single column does. `hub` is the id to load where `ids`, by which the
    entry is found, must not hold it because another entry has it. Empty `images` means: told from the column itself.
    """

    name: str
    ids: tuple[str, ...] = ()
    hub: str = ""
    revision: str = "main"
    config: str = ""
    splits: dict[str, int] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    id_columns: tuple[str, ...] = ()
    images: Literal["image", "images", "path", "none", ""] = ""
    answers: str = "value_or_letter"
    options: Literal["none", "lettered", "appended"] = "none"
    markers: Literal["", "<image>", "<image1>"] = ""
    prompt: str = "plain"
    licence: str = "not known"
    url: str = ""
    evidence: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptTexts:
    """What is put around a question: a system message, and text before and behind it in the user turn."""

    system: str = ""
    prefix: str = ""
    suffix: str = ""
    answers_in: Literal["boxed", "answer_tag", "anywhere"] = "boxed"
    source: str = ""


@cache
def catalog() -> dict[str, CatalogEntry]:
    """Name -> entry, in the order of the file."""
    table = tomllib.loads(files("saei.data").joinpath("catalog.toml").read_text(encoding="utf-8"))
    known = {f.name for f in fields(CatalogEntry)}
    entries: dict[str, CatalogEntry] = {}
    for name, row in table.items():
        if row.keys() - known:
            raise ValueError(f"saei/data/catalog.toml, [{name}]: unknown keys {', '.join(sorted(row.keys() - known))}")
        lists = {key: tuple(value) for key, value in row.items() if isinstance(value, list)}
        entries[name] = CatalogEntry(name=name, **{**row, **lists})
    return entries


@cache
def prompts() -> dict[str, PromptTexts]:
    """Name -> published prompt."""
    table = tomllib.loads(files("saei.data").joinpath("prompts.toml").read_text(encoding="utf-8"))
    return {name: PromptTexts(**row) for name, row in table.items()}


def prompt_texts(data: DataConfig) -> PromptTexts:
    """What `data` puts around every question. Raises ValueError for a `data.prompt` that no table has."""
    if not data.prompt:
        return PromptTexts(system=data.system_prompt, suffix=data.prompt_suffix, source="data.system_prompt")
    if data.prompt not in prompts():
        raise ValueError(f"data.prompt is one of {', '.join(prompts())}, got {data.prompt!r}")
    return prompts()[data.prompt]


def check_answer_place(data: DataConfig) -> None:
    r"""Raise ValueError for a prompt that is not there, or asks for the answer where the reward does not look."""
    if prompt_texts(data).answers_in == "answer_tag":
        raise ValueError(
            f"data.prompt {data.prompt} asks for the answer in <answer> tags, and the reward reads \boxed{{}}: every "
            "completion would count as wrong; take easyr1, noisyrollout or mm_eureka_boxed"
        )


def entry_of(data: DataConfig) -> CatalogEntry:
    """The catalogue's entry for `data`: the one that `data.dataset` names, or that of the hub id; columns that
    `data.columns` names are replaced.

    Raises ValueError for an unknown name, and for a set that is not in the catalogue and has no column map.
    """
    given = dict(column.split("=", 1) for column in data.columns)
    if data.dataset:
        if data.dataset not in catalog():
            raise ValueError(f"data.dataset is one of {', '.join(catalog())} (or empty), got {data.dataset!r}")
        found = catalog()[data.dataset]
    else:
        found = next((entry for entry in catalog().values() if data.path in entry.ids), None)
    if found is not None:
        images = "" if "image" in given else found.images  # another column may hold another kind
        return replace(found, columns={**found.columns, **given}, images=images) if given else found
    missing = [role for role in ("question", "answer") if role not in given]
    if missing:
        raise ValueError(
            f"data.path {data.path!r} is {_GENERIC_ID}: name it with --data.dataset ({', '.join(catalog())}), or map "
            f"its columns: --data.columns image=COLUMN question=COLUMN answer=COLUMN (missing: {', '.join(missing)})"
        )
    return CatalogEntry(name="", columns=given)
