"""``python -m services.inference.encoder_copy FOLDER``: puts the packaged sentence encoder on a volume.

Triton's image has it. The safety and the scoring service must see it at the path that they tell Triton, and it would be
a third of their images.
"""

import os
import shutil
import sys
from pathlib import Path

from services.inference.failures import InferenceFailure
from services.inference.public_encoder import locate_encoder


def copy_encoder(destination: Path) -> bool:
    """Copy the encoder unless it is there already; whoever sees the folder sees all of it.

    Returns:
        Whether anything was copied.

    Raises:
        InferenceFailure: ENCODER_NOT_FOUND: this environment has none, or the destination holds something else.
        OSError: it cannot be written to.
    """
    if destination.exists():
        locate_encoder(destination)
        return False
    unready = destination.with_name(f".{destination.name}.{os.getpid()}")
    shutil.rmtree(unready, ignore_errors=True)
    shutil.copytree(locate_encoder(None), unready, copy_function=shutil.copyfile)
    try:
        unready.rename(destination)
    except OSError:
        # Another copy was quicker.
        shutil.rmtree(unready)
        locate_encoder(destination)
        return False
    return True


def main() -> int:
    """Copy it to the folder that is named; 0 if it is there afterwards."""
    if len(sys.argv) != 2:
        print("usage: python -m services.inference.encoder_copy FOLDER", file=sys.stderr)
        return 2
    try:
        copy_encoder(Path(sys.argv[1]))
    except InferenceFailure as failure:
        print(failure.message, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{sys.argv[1]}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
