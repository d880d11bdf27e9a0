"""Fails a build whose base image does not have what our models need: ``python -m deploy.docker.check_triton FOLDER``.

Nothing that needs a GPU is imported: a build has none.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Final

IMPORTED: Final = (
    "services.inference.launcher",
    "services.inference.engines.vllm.environment",
    "services.inference.repository",
)
FOUND: Final = ("peft", "safetensors", "tokenizers", "torch", "transformers", "vllm")


def main() -> None:
    """Check the Python that runs this, and the Triton in the folder that is named."""
    from services.inference.platform_checks import installed_triton

    installed_triton(Path(sys.argv[1]))
    for name in IMPORTED:
        importlib.import_module(name)
    missing = [name for name in FOUND if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"the base image has no {', '.join(missing)}; it must be one with vLLM")


if __name__ == "__main__":
    main()
