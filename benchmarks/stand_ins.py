"""Stand-ins for packages that the scoring and sampling files name and a bare GPU machine may lack.

jaxtyping is read in annotations only, Pillow only where an image file is resized; neither happens in benchmarks/gpu.py.
Nothing stands in for a package that is there.
"""

import sys
from enum import IntEnum
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


class _Shaped:
    """`Float[Tensor, "rows columns"]` and its like, as a type that says nothing."""

    def __class_getitem__(cls, item: Any) -> Any:
        return Any


class _Resampling(IntEnum):
    """Pillow's numbers: transformers has them as defaults."""

    NEAREST = 0
    LANCZOS = 1
    BILINEAR = 2
    BICUBIC = 3
    BOX = 4
    HAMMING = 5


MODULES: dict[str, dict[str, Any]] = {
    "jaxtyping": dict.fromkeys(("Bool", "Float", "Int", "UInt8"), _Shaped),
    "PIL": {},
    "PIL.Image": {"Image": type("Image", (), {}), "Resampling": _Resampling},
    "PIL.ImageOps": {},
}


def install() -> list[str]:
    """Put stand-ins in the place of what is missing; call it before transformers is imported. Returns their names."""
    missing = [name for name in ("jaxtyping", "PIL") if find_spec(name) is None]
    for name, content in MODULES.items():
        package, _, child = name.partition(".")
        if package in missing:
            module = ModuleType(name)
            module.__spec__ = ModuleSpec(name, None)
            vars(module).update(content)
            sys.modules[name] = module
            if child:
                setattr(sys.modules[package], child, module)
    return missing
