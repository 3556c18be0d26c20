"""Run a module where only torch, transformers and what these require can be imported: `-m` style, as a child process.

python tests/nothing_else_installed.py benchmarks.gpu --device cpu
"""

import importlib.metadata
import re
import runpy
import sys
from importlib.machinery import PathFinder
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def required(names: set[str]) -> set[str]:
    """Names of distributions: these and everything that they require, extras left out."""
    found: set[str] = set()
    waiting = set(names)
    while waiting:
        name = waiting.pop()
        found.add(name)
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # of another platform
            continue
        needs = {_name(re.split(r"[<>=!~;\[ (]", line)[0]) for line in lines if "extra ==" not in line}
        waiting |= needs - found
    return found


def _name(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def hide_the_rest() -> None:
    """As if whatever else is installed were not there."""
    kept = required({"torch", "transformers"})
    hidden = {
        top
        for top, distributions in importlib.metadata.packages_distributions().items()
        if not any(_name(distribution) in kept for distribution in distributions)
    } - {"saei", "benchmarks"}

    class Kept(PathFinder):
        @classmethod
        def find_spec(cls, fullname, path=None, target=None):
            return None if fullname.partition(".")[0] in hidden else super().find_spec(fullname, path, target)

    sys.meta_path[sys.meta_path.index(PathFinder)] = Kept


if __name__ == "__main__":
    hide_the_rest()
    sys.path.insert(0, str(ROOT))
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
