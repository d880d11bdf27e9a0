"""What is new in a model, told from digests."""

import enum
from dataclasses import dataclass
from typing import Final


class ModelChange(enum.Enum):
    """How a model differs from the one that it is compared with; see ``ModelChange`` in evaluation.proto."""

    UNCHANGED = "unchanged"
    ADAPTER = "adapter"
    MINOR = "minor"
    MAJOR = "major"


@dataclass(frozen=True, slots=True)
class ModelContent:
    """What a model is, as digests; the last two are empty where nobody knows them.

    Attributes:
        digest: of everything that decides its answers.
        base_digest: of that without its adapter.
        lineage_digest: of configuration, tokenizer and chat template.
    """

    digest: str
    base_digest: str = ""
    lineage_digest: str = ""


@dataclass(frozen=True, slots=True)
class TierChoice:
    """Why a run that left its tier to the suite has the one that it has.

    Attributes:
        change: what was found to be new, or what the caller said.
        compared_run: the run, ``runs/{run}``, of the model that it was compared with; empty: there is none, or the
            caller said what has changed.
        reason: for people.
    """

    change: ModelChange
    compared_run: str
    reason: str


def change_between(model: ModelContent, earlier: ModelContent) -> ModelChange:
    """What is new in ``model``; what nobody knows counts as different."""
    if model.digest == earlier.digest:
        return ModelChange.UNCHANGED
    if model.base_digest and model.base_digest == earlier.base_digest:
        return ModelChange.ADAPTER
    if model.lineage_digest and model.lineage_digest == earlier.lineage_digest:
        return ModelChange.MINOR
    return ModelChange.MAJOR


_FOUND: Final = {
    ModelChange.UNCHANGED: "the same model as in {}",
    ModelChange.ADAPTER: "the same weights as in {} with another adapter",
    ModelChange.MINOR: "other weights of the same configuration and tokenizer as in {}",
    ModelChange.MAJOR: "another configuration, tokenizer or chat template than in {}",
}


def described(change: ModelChange, compared_run: str, *, was_told: bool) -> str:
    """One line for people about what is new."""
    if was_told:
        return f"the caller says that the change is {change.value}"
    if not compared_run:
        return "no earlier run of the suite to compare with"
    return _FOUND[change].format(compared_run)
