"""Limits on growth and direction, as data: to loosen one is a visible edit of this file."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for folder in ("saei", "sweeps", "analysis") for path in (ROOT / folder).rglob("*.py"))
MAX_LINES, MAX_FUNCTION_LINES = 400, 70
LONGER_FILES: dict[str, int] = {}

# Inside saei, a module imports only its own layer or lower ones.
LAYERS = {
    "schema": 0, "units": 0, "settings": 0, "config": 0, "types": 0, "seeding": 0, "clock": 0, "cli": 0, "order": 0,
    "commit": 0, "state": 0, "overlong": 0, "differences": 0, "refill": 0, "rendezvous": 0, "parcel": 0, "job": 0,
    "atomic": 0, "loading": 0, "parts": 1,
    "distributed": 1, "joining": 1, "exhausted": 1, "presets": 1, "recipe": 1, "alarms": 1, "detectors": 1,
    "data": 1, "tiny": 1, "reward": 1, "graders": 1, "advantage": 1, "losses": 1, "select": 1, "views": 1, "pixels": 1,
    "control": 1, "filters": 1, "shaping": 1, "back_off": 1, "token_scores": 1, "score_views": 1,
    "identity": 2, "policy": 2, "packing": 2, "sampler": 2, "scoring": 2, "draw": 2, "decoder": 2, "moved_text": 2,
    "families": 2, "engines": 2, "blocks": 2, "shared_prefix": 2, "patch_matmul": 2, "head": 2,
    "attention": 2, "recomputing": 2, "master_weights": 2, "adapter_folder": 1, "adapters": 2, "reference": 2,
    "sharding": 2, "even_passes": 3, "whole_state": 3,
    "recorder": 3, "environment": 3, "credit": 3, "rollout": 3, "make_view": 3, "evidence": 3, "update": 3,
    "integrations": 4,
    "metrics": 3, "strips": 3, "steer": 3, "curriculum": 3, "checkpoint": 3, "evaluate": 3, "robustness": 3,
    "options": 3, "batches": 3, "standing": 3, "ending": 3, "run": 3, "stopping": 3, "trackers": 3, "again": 3,
    "benchmarks": 3, "plan": 3, "train": 4, "verify": 4, "probe": 4, "doctor": 4,
}  # fmt: skip
COMMAND_LINES = {"saei.tiny.warmstart": 4, "saei.tiny.card": 4, "saei.tiny.build": 4}  # entry points stand on top


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def layer(module: str) -> int | None:
    for name, number in COMMAND_LINES.items():
        if module.startswith(name):
            return number
    parts = module.split(".")
    return LAYERS.get(parts[1]) if parts[0] == "saei" and len(parts) > 1 else None


def test_every_module_of_saei_has_a_layer():
    tops = {module_name(path).split(".")[1] for path in SOURCES if module_name(path).startswith("saei.")}
    assert tops <= LAYERS.keys(), f"give these modules a layer: {sorted(tops - LAYERS.keys())}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dependencies_point_one_way(path):
    module = module_name(path)
    for imported in imports(path):
        if module.startswith("saei"):
            assert not imported.startswith(("sweeps", "analysis")), f"{module} imports {imported}"
            mine, theirs = layer(module), layer(imported)
            if mine is not None and theirs is not None:
                assert theirs <= mine, f"{module} (layer {mine}) imports {imported} (layer {theirs})"
        if module.startswith("analysis"):
            assert not imported.startswith("sweeps"), f"{module} imports {imported}"
            if imported.startswith("saei"):
                on_disk = imported.startswith(("saei.schema", "saei.parts"))
                assert on_disk or imported == "saei", f"{module} imports {imported}"


@pytest.mark.parametrize("module", ["saei.schema", "saei.config", "saei.presets", "analysis.load", "analysis.stats"])
def test_these_modules_load_without_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    name = str(path.relative_to(ROOT))
    assert len(text.splitlines()) <= LONGER_FILES.get(name, MAX_LINES)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{name}:{node.lineno} {node.name} has {length} lines"


def test_there_is_no_drawer_for_everything():
    assert not [path for path in SOURCES if path.stem in {"utils", "util", "base", "helpers", "common", "misc"}]


def test_the_step_knows_no_methods_name():
    tree = ast.parse((ROOT / "saei/train.py").read_text())
    step = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train_step")
    body = "\n".join(ast.unparse(node) for node in step.body[1:])
    assert not re.search(r"saei_|egas|grpo|random_sign|tsec", body, re.IGNORECASE)


def test_notebooks_hold_prose_and_calls_and_no_outputs():
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        cells = json.loads(path.read_text())["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert len(code) <= 12, path.name
        for cell in code:
            assert not cell["outputs"] and cell["execution_count"] is None, f"{path.name}: strip the outputs"
            assert "def " not in "".join(cell["source"]), f"{path.name}: functions belong to analysis/"
