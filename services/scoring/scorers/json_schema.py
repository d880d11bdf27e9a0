"""Whether a text is JSON that fits a schema."""

import re
from typing import TYPE_CHECKING, Final, Literal

from pydantic import Field, JsonValue

from services.runtime.errors import FieldViolation
from services.scoring.contract import (
    MetricDescription,
    Output,
    Score,
    ScorerDescription,
    ScorerDetails,
    ScorerParameters,
    ScoringItem,
)
from services.scoring.details import require_details
from services.scoring.errors import InvalidScoreRequestError
from services.scoring.json_texts import MAX_DEPTH, NoJsonError, fenced_text, parse_json
from services.scoring.processor_time import processor_time
from services.scoring.requirements import require_text
from services.scoring.text_limits import require_lengths

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

MAX_CHARACTERS: Final = 1_000_000
LIMIT_SECONDS: Final = 5.0
# What comes of schemas that their metaschema lets pass, such as bad patterns and odd URLs.
_BEYOND_METASCHEMAS: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, re.error)


class JsonSchemaParameters(ScorerParameters):
    """The schema of all items, and where the JSON is."""

    json_schema: dict[str, JsonValue] | None = Field(
        None, description="The schema; absent: each item brings its own in its details."
    )
    extract: Literal["whole", "fenced"] = Field(
        "whole",
        description="Where the JSON is: whole (the text is nothing else) or fenced (the first fenced block of "
        "Markdown, or the whole text if it has none).",
    )


class JsonSchemaDetails(ScorerDetails):
    """The schema of one item."""

    json_schema: dict[str, JsonValue] | None = Field(
        None, description="The item's own schema, which replaces that of the parameters."
    )


class JsonSchema:
    """1 if the text is JSON that fits the schema."""

    about = ScorerDescription(
        name="json_schema",
        version="1",
        description="Parses the text and validates it as the package jsonschema does: the draft that $schema names, "
        "else 2020-12; formats are not checked, and references lead nowhere outside of the schema. NaN and infinities "
        f"are no JSON. Texts have at most {MAX_CHARACTERS} characters, are nested at most {MAX_DEPTH} deep, and "
        f"take at most {LIMIT_SECONDS:g} s of processor time.",
        metrics=(
            MetricDescription("valid_json", "1 if the text is JSON, whatever it says."),
            MetricDescription("matches_schema", "1 if it is JSON that fits the schema."),
        ),
        details=JsonSchemaDetails,
        is_heavy=True,
        preloads=("jsonschema.validators",),
        libraries=("jsonschema", "referencing"),
    )
    parameters_type = JsonSchemaParameters

    def score(self, parameters: JsonSchemaParameters, item: ScoringItem, output: Output) -> Score:
        """Validate one text; the answer is the JSON text. Raises what ``Scorer.score`` says."""
        text = require_text(self.about.name, output)
        require_lengths(self.about.name, text, (), limit=MAX_CHARACTERS)
        field, schema = self._schema(parameters, item)
        # Imported before the clock runs.
        draft = self._draft(field, schema)
        with processor_time(self.about.name, LIMIT_SECONDS):
            self._check(field, draft, schema)
            given = fenced_text(text) if parameters.extract == "fenced" else text
            try:
                document = parse_json(given)
            except NoJsonError:
                return Score({"valid_json": 0.0, "matches_schema": 0.0}, None)
            is_valid = self._validate(field, draft, schema, document)
        return Score({"valid_json": 1.0, "matches_schema": float(is_valid)}, given.strip())

    def _schema(self, parameters: JsonSchemaParameters, item: ScoringItem) -> tuple[str, dict[str, JsonValue]]:
        own = require_details(self.about.name, item, JsonSchemaDetails).json_schema
        if own is not None:
            return "details.json_schema", own
        if parameters.json_schema is not None:
            return "parameters.json_schema", parameters.json_schema
        raise InvalidScoreRequestError(
            self.about.name, FieldViolation("parameters.json_schema", "give a schema here or in the item's details")
        )

    def _draft(self, field: str, schema: dict[str, JsonValue]) -> "type[Validator]":
        # Here, so that a service that is never asked for it starts without it.
        from jsonschema.validators import Draft202012Validator, validator_for

        try:
            return validator_for(schema, default=Draft202012Validator)
        except _BEYOND_METASCHEMAS as error:
            raise self._bad_schema(field, f"names no draft in $schema: {error!r}") from None

    def _check(self, field: str, draft: "type[Validator]", schema: dict[str, JsonValue]) -> None:
        from jsonschema.exceptions import SchemaError

        try:
            draft.check_schema(schema)
        except SchemaError as error:
            raise self._bad_schema(field, f"is no schema: {error.message}") from None
        except RecursionError:
            raise self._bad_schema(field, "is nested too deeply") from None

    def _validate(
        self, field: str, draft: "type[Validator]", schema: dict[str, JsonValue], document: JsonValue
    ) -> bool:
        from jsonschema.exceptions import UnknownType
        from referencing import Registry
        from referencing.exceptions import Unresolvable

        try:
            # With a registry of its own, jsonschema fetches nothing.
            return draft(schema, registry=Registry()).is_valid(document)
        except RecursionError:
            raise self._bad_schema(field, "refers to itself without end") from None
        except Unresolvable as error:
            raise self._bad_schema(field, f"refers to what is not in it: {error}") from None
        except (*_BEYOND_METASCHEMAS, UnknownType) as error:
            raise self._bad_schema(field, f"cannot be applied to this text: {error!r}") from None

    def _bad_schema(self, field: str, description: str) -> InvalidScoreRequestError:
        shown = description if len(description) <= 300 else description[:299] + "…"
        return InvalidScoreRequestError(self.about.name, FieldViolation(field, shown))
