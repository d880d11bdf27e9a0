"""A blocklist: words and patterns by category, from a YAML file that is checked when the service starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import regex
from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.runtime.thread_time import ThreadTimeLimit
from services.safety.guard_file import CategoryEntry
from services.safety.judgement import HazardCategory
from services.safety.normalising import normalised
from services.safety.yaml_file import file_error, hint, read_yaml_mapping, validated

MATCH_LIMIT_SECONDS: Final = 1.0
"""Processor seconds that all rules may take for one text. Patterns can be slow without end, phrases cannot."""

_MAX_PATTERN_CHARACTERS: Final = 500
_MAX_RULES: Final = 1000
_FLAGS: Final = regex.IGNORECASE | regex.V0


class Rule(BaseModel):
    """What makes a text a case of a category.

    Attributes:
        category: a code of the file's categories.
        phrases: whole words, in any case and with any spaces between them.
        pattern: a regular expression over the text in lower case with single spaces.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    category: str
    phrases: tuple[str, ...] = Field((), max_length=10_000)
    pattern: str | None = Field(None, min_length=1, max_length=_MAX_PATTERN_CHARACTERS)

    @model_validator(mode="after")
    def _check_content(self) -> "Rule":
        if bool(self.phrases) == (self.pattern is not None):
            raise ValueError("must have either phrases or a pattern")
        if not all(normalised(each) for each in self.phrases):
            raise ValueError("a phrase is empty; it would be found in every text")
        return self


class BlocklistFile(BaseModel):
    """The content of a blocklist file.

    Attributes:
        taxonomy: name of the taxonomy that the codes belong to.
        taxonomy_version: its version.
        categories: by code.
        rules: what is looked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    taxonomy: str = Field(min_length=1)
    taxonomy_version: str = Field(min_length=1)
    categories: dict[str, CategoryEntry] = Field(min_length=1)
    rules: tuple[Rule, ...] = Field(min_length=1, max_length=_MAX_RULES)


@dataclass(frozen=True, slots=True)
class Blocklist:
    """Compiled rules.

    Attributes:
        categories: all of the file.
        rules: expressions over normalised text, each with the category that it stands for.
    """

    categories: tuple[HazardCategory, ...]
    rules: Sequence[tuple[HazardCategory, "regex.Pattern[str]"]]

    def find(self, text: str, *, limit_seconds: float = MATCH_LIMIT_SECONDS) -> list[HazardCategory]:
        """Return the categories that a text is a case of, in the order of the rules. Takes processor time.

        Raises:
            TimeoutError: the rules take too long on this text.
        """
        own_time = ThreadTimeLimit(limit_seconds)
        content = normalised(text)
        found: dict[HazardCategory, None] = {}
        for category, expression in self.rules:
            if category in found:
                continue
            if own_time.attempt(partial(_is_in, content, expression)):
                found[category] = None
        return list(found)


def _is_in(content: str, expression: "regex.Pattern[str]", seconds: float) -> bool:
    # Without the lock of the interpreter: a slow pattern must not hold up the service's other calls.
    return expression.search(content, timeout=seconds, concurrent=True) is not None


def read_blocklist(file: Path) -> Blocklist:
    """Read and compile a blocklist.

    Raises:
        GuardFileError: names the file, the field and the nearest valid name.
    """
    content = validated(file, BlocklistFile, read_yaml_mapping(file))
    categories = {
        code: HazardCategory(content.taxonomy, content.taxonomy_version, code, entry.title, entry.ailuminate)
        for code, entry in content.categories.items()
    }
    rules = []
    for index, rule in enumerate(content.rules):
        if rule.category not in categories:
            raise file_error(
                file,
                f"rules[{index}].category: {rule.category!r} is no category, {hint(rule.category, tuple(categories))}",
            )
        rules.append((categories[rule.category], _compiled(file, index, rule)))
    return Blocklist(tuple(categories.values()), rules)


def _compiled(file: Path, index: int, rule: Rule) -> "regex.Pattern[str]":
    if rule.pattern is None:
        # A named list is looked up, not tried word by word, so its length does not matter.
        return regex.compile(r"(?<!\w)\L<words>(?!\w)", regex.V0, words={normalised(each) for each in rule.phrases})
    try:
        expression = regex.compile(rule.pattern, _FLAGS)
        matches_nothing = expression.search("", timeout=MATCH_LIMIT_SECONDS) is not None
    except (regex.error, RecursionError, OverflowError, TimeoutError) as error:
        raise file_error(file, f"rules[{index}].pattern: is no regular expression: {error}") from error
    if matches_nothing:
        raise file_error(file, f"rules[{index}].pattern: matches the empty text, so it would be found in every text")
    return expression
