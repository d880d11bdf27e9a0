"""Taxonomies of guard models, as data in ``taxonomies/``."""

from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from services.safety.guard_file import CategoryEntry
from services.safety.judgement import HazardCategory
from services.safety.yaml_file import read_yaml_mapping

_FOLDER: Final = Path(__file__).with_name("taxonomies")
_LONGEST_UNKNOWN_CODE: Final = 80


class GuardedCategory(CategoryEntry):
    """A category, and for families that are asked one question a category, what that question says.

    Attributes:
        prompt_question: the policy in the words that judge a prompt.
        response_question: the policy in the words that judge a response.
    """

    prompt_question: str = ""
    response_question: str = ""


class Taxonomy(BaseModel):
    """The categories of one family of guards.

    Attributes:
        name: of the taxonomy; equal codes of two taxonomies mean different things.
        version: of the taxonomy.
        categories: by code, in the order in which the guard lists them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    version: str = Field(min_length=1)
    categories: dict[str, GuardedCategory] = {}

    def category(self, code: str) -> HazardCategory:
        """Return a category; one without a taxonomy if there is none of that code."""
        entry = self.categories.get(code)
        if entry is None:
            # What a model wrote may be no text that a message can carry: JSON can spell half a character.
            spelled = code[:_LONGEST_UNKNOWN_CODE].encode("utf-8", "replace").decode()
            return HazardCategory("", "", spelled)
        return HazardCategory(self.name, self.version, code, entry.title, entry.ailuminate)

    def all(self) -> tuple[HazardCategory, ...]:
        """Return all categories."""
        return tuple(self.category(code) for code in self.categories)


def read_taxonomy(name: str) -> Taxonomy:
    """Read a taxonomy that comes with the service."""
    return Taxonomy.model_validate(read_yaml_mapping(_FOLDER / f"{name}.yaml"))
