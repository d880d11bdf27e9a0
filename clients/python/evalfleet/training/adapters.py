"""Whether a saved folder is a whole checkpoint, or a LoRA adapter that needs its base."""

import json
import os
from pathlib import Path
from typing import NamedTuple

from evalfleet.errors import EvalFleetError

_ADAPTER_FILE = "adapter_config.json"


class CheckpointParts(NamedTuple):
    """What a fleet is asked to load: a folder or a hub's repository, and an adapter that is merged into it."""

    checkpoint: str | None
    adapter: str | None
    hub: str | None
    revision: str | None


def parts_of(folder: Path, base: str | None) -> CheckpointParts:
    """Say what there is to load; of a LoRA training that is the adapter alone, beside a base that the fleet has.

    Args:
        folder: what the trainer saved.
        base: folder or URL of the base; default: what the adapter's configuration says.

    Raises:
        EvalFleetError: ADAPTER_BASE_UNKNOWN: nobody says what the adapter was trained on.
    """
    try:
        configuration = json.loads((folder / _ADAPTER_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return CheckpointParts(os.fspath(folder), None, None, None)
    named = base or configuration.get("base_model_name_or_path")
    if not named:
        raise EvalFleetError(
            f"{folder / _ADAPTER_FILE} does not name the base of the adapter; give CheckpointEvaluator(base=...)",
            reason="ADAPTER_BASE_UNKNOWN",
        )
    if base or "://" in named or Path(named).is_dir():
        return CheckpointParts(named, os.fspath(folder), None, None)
    return CheckpointParts(None, os.fspath(folder), named, configuration.get("revision"))
