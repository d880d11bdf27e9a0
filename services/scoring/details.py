"""Check what a caller says of an item beyond its answers."""

import json
from collections.abc import Mapping
from typing import TypeVar

from pydantic import JsonValue, ValidationError

from services.runtime.errors import FieldViolation
from services.scoring.contract import ScorerDetails, ScoringItem
from services.scoring.errors import InvalidScoreRequestError
from services.scoring.parameters import violations_of

DetailsT = TypeVar("DetailsT", bound=ScorerDetails)


def require_details(scorer: str, item: ScoringItem, model: type[DetailsT]) -> DetailsT:
    """Return an item's details as the scorer's model; a value of ``None`` counts as absent.

    Raises:
        InvalidScoreRequestError: names every wrong detail, and the nearest valid name of an unknown one.
    """
    known = {name: value for name, value in item.details.items() if value is not None}
    try:
        # By way of JSON, whose lists strict models take for tuples at every depth.
        return model.model_validate_json(json.dumps(known))
    except ValidationError as error:
        raise InvalidScoreRequestError(scorer, *violations_of(error, model, "details")) from None
    except RecursionError:
        raise InvalidScoreRequestError(scorer, FieldViolation("details", "are nested too deeply")) from None


def refuse_details(scorer: str, details: Mapping[str, JsonValue]) -> None:
    """Refuse details for a scorer that reads none: whoever sent them expects them to count.

    Raises:
        InvalidScoreRequestError: there are some.
    """
    if details:
        violations = (FieldViolation(f"details.{name}", "this scorer takes no details") for name in details)
        raise InvalidScoreRequestError(scorer, *violations)
