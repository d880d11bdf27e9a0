"""Builds the cascades of the guards file from the guards that are there."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.safety.cascade import CascadeGuard, CascadeMetrics
from services.safety.cascade_file import find_stages, read_cascade
from services.safety.guard import Guard
from services.safety.guards_file import CascadeEntry, read_guards_file
from services.safety.yaml_file import file_error


async def build_cascades(file: Path, guards: Sequence[Guard], metrics: CascadeMetrics) -> list[Guard]:
    """Build the cascades that a guards file names, in its order.

    Args:
        file: the guards file.
        guards: what stages can be; no cascade, because a calibration speaks of a guard's own probabilities.
        metrics: counts who decides.

    Raises:
        GuardFileError: the guards file and the calibration file disagree on the name.
        CascadeFileError: a calibration file cannot be used, or is for other guards.
    """
    entries = await asyncio.to_thread(read_guards_file, file)
    known = {guard.about.name: guard for guard in guards}
    return [
        await asyncio.to_thread(_build, file, entry, known, metrics)
        for entry in entries
        if isinstance(entry, CascadeEntry)
    ]


def _build(file: Path, entry: CascadeEntry, known: Mapping[str, Guard], metrics: CascadeMetrics) -> Guard:
    cascade = read_cascade(entry.calibration)
    if cascade.name != entry.name:
        # The name is under the calibration's digest, so it cannot be the guards file that decides.
        raise file_error(file, f"guard {entry.name!r}: is called {cascade.name!r} in {entry.calibration}")
    stages = find_stages(entry.calibration, cascade, known)
    if entry.description:
        cascade = cascade.model_copy(update={"description": entry.description})
    return CascadeGuard(cascade, stages, metrics)
