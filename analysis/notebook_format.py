"""nbformat, loaded without a grammar of international addresses that no notebook needs.

The validator behind it takes a second to parse that grammar wherever the package is installed.
"""

import sys
from typing import Any

_GRAMMAR = "rfc3987_syntax"
_modules: dict[str, Any] = sys.modules  # None: an import of it fails, which the validator is prepared for
_is_ours = _modules.setdefault(_GRAMMAR, None) is None
try:
    import nbformat
finally:
    if _is_ours:
        del _modules[_GRAMMAR]

__all__ = ["nbformat"]
