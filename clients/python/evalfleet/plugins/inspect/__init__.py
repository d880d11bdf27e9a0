"""EvalFleet's checkpoints, scorers, guards and stopping rules in Inspect AI.

Inspect finds the provider by itself: ``inspect eval task.py --model evalfleet/step-1200``.

    from evalfleet.plugins.inspect import FleetStopping, fleet_guard, fleet_scorer
"""

try:
    from evalfleet.plugins.inspect.scorers import fleet_guard, fleet_scorer
    from evalfleet.plugins.inspect.stopping import FleetStopping
except ModuleNotFoundError as missing:
    if missing.name != "inspect_ai":
        raise
    raise ModuleNotFoundError(
        "this plug-in needs Inspect AI: pip install 'evalfleet[inspect]'", name="inspect_ai"
    ) from missing

__all__ = ["FleetStopping", "fleet_guard", "fleet_scorer"]
