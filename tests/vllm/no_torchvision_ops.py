"""Goes into the site-packages of the vLLM test environment, beside a `.pth` file that says `import no_torchvision_ops`.

The torchvision that vLLM's CPU wheel brings is built for CUDA: its native operators are missing beside a CPU torch, and
registering their shapes fails on `import torchvision`. Its Python transforms need none of them. Nothing is imported
here until somebody imports torchvision.
"""

import sys
from typing import Any


class _BeforeTorchvision:
    """A finder that finds nothing: it only makes `register_fake` pass over operators that do not exist."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name != "torchvision":
            return
        sys.meta_path.remove(self)  # pyright: ignore[reportArgumentType]
        import torch.library

        register = torch.library.register_fake

        def register_known(op: Any, *arguments: Any, **options: Any) -> Any:
            if isinstance(op, str) and op.startswith("torchvision::"):
                return arguments[0] if arguments and callable(arguments[0]) else lambda function: function
            return register(op, *arguments, **options)

        torch.library.register_fake = register_known


sys.meta_path.insert(0, _BeforeTorchvision())  # pyright: ignore[reportArgumentType]
