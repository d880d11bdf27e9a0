"""What every model read from a suite or task file has in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
Template = Annotated[str, StringConstraints(max_length=65536)]
Expression = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class Specification(BaseModel):
    """Base of everything read from YAML: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=False)
