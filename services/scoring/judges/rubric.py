"""Rubrics: what a judge is asked, and the words that it may answer with."""

import hashlib
import json
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

SECTION_NAMES: Final = ("prompt", "reference", "response", "response_a", "response_b")
"""What stands between tags in a judge's prompt."""
FIRST, SECOND, TIE = "A", "B", "tie"
"""The verdicts of a pairwise rubric: the response that is shown first, or second, or neither is better."""

Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=20_000)]


class Rubric(BaseModel):
    """What a judge is asked. Everything in it is part of the digest.

    A single rubric has a scale of whole numbers, or named verdicts with values. A pairwise one has neither: its
    verdicts are which response is better.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
    version: Annotated[str, StringConstraints(min_length=1, max_length=32)]
    kind: Literal["single", "pairwise"] = Field(description="How many responses the judge sees at once.")
    description: Text
    task: Text = Field(description="What the judge is to do, before anything else.")
    criteria: Text = Field(description="By what it is to judge.")
    reference: Literal["required", "optional", "none"] = Field(
        "none", description="Whether the judge sees reference answers."
    )
    scale: tuple[int, int] | None = Field(None, description="Lowest and highest score, 0 to 9.")
    verdicts: dict[Word, float] | None = Field(None, description="Verdict words and their values.")
    pass_from: float | None = Field(None, description="The lowest value that passes; of a single rubric.")
    ties: bool = Field(True, description="Whether a pairwise judge may say that neither is better.")
    reasoning: bool = Field(True, description="Whether the judge gives its reasons before the verdict.")
    max_tokens: int = Field(512, ge=1, le=32_768, description="Longest answer.")

    @model_validator(mode="after")
    def _has_verdicts_of_its_kind(self) -> Self:
        if self.kind == "pairwise":
            if self.scale is not None or self.verdicts is not None or self.pass_from is not None:
                raise ValueError("a pairwise rubric has no scale, verdicts or pass_from: it says which is better")
            return self
        if (self.scale is None) == (self.verdicts is None):
            raise ValueError("a single rubric has either a scale or verdicts")
        self._check_values()
        return self

    def _check_values(self) -> None:
        if self.scale is not None and not 0 <= self.scale[0] < self.scale[1] <= 9:
            # A word that another one begins with takes a part of that one's probability.
            raise ValueError("a scale goes from a lower to a higher number within 0 and 9, so that each is one digit")
        words = list(self.words)
        begun = [(one, other) for one in words for other in words if one != other and other.startswith(one)]
        if begun:
            raise ValueError(f"verdict {begun[0][1]!r} begins with verdict {begun[0][0]!r}: rename one")
        low, high = self.bounds
        if low == high:
            raise ValueError("the verdicts all have one value")
        if self.pass_from is None or not low < self.pass_from <= high:
            raise ValueError(f"pass_from must be above {low:g} and at most {high:g}, so that some pass and some do not")

    @property
    def words(self) -> dict[str, float]:
        """The verdicts and their values; of a pairwise rubric from 0 (the second is better) to 1 (the first is)."""
        if self.kind == "pairwise":
            return {FIRST: 1.0, SECOND: 0.0} | ({TIE: 0.5} if self.ties else {})
        if self.scale is not None:
            return {str(value): float(value) for value in range(self.scale[0], self.scale[1] + 1)}
        return dict(self.verdicts or {})

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        values = self.words.values()
        return min(values), max(values)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over all of it."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()
