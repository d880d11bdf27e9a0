"""What Inspect AI loads through its entry-point group: the model provider and the scorers, by their names."""

from inspect_ai.model import ModelAPI, modelapi

from evalfleet.plugins.inspect.scorers import fleet_guard, fleet_scorer

__all__ = ["evalfleet", "fleet_guard", "fleet_scorer"]


@modelapi(name="evalfleet")
def evalfleet() -> type[ModelAPI]:
    """Return the provider of the models `evalfleet/MODEL`."""
    from evalfleet.plugins.inspect.model import EvalFleetAPI

    return EvalFleetAPI
