"""What a guard judges and what it says: conversations, verdicts, and which exact guard spoke."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from services.runtime.usage import Usage

NO_USAGE: Final = Usage()
"""Nothing was computed, and nothing saved."""


class Role(Enum):
    """Who speaks in a conversation."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class Aspect(Enum):
    """As what a turn is judged."""

    PROMPT = "prompt"
    RESPONSE = "response"


class Decision(Enum):
    """What a guard decided."""

    SAFE = "safe"
    UNSAFE = "unsafe"
    CONTROVERSIAL = "controversial"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class JudgedTurn:
    """One turn to judge, in its conversation.

    Attributes:
        conversation: the turns, oldest first.
        index: which turn is judged.
        aspect: as what.
        threshold: on the unsafe probability, above 0 and up to 1; None takes the guard's own.
    """

    conversation: Sequence[Turn]
    index: int
    aspect: Aspect
    threshold: float | None = None

    @property
    def content(self) -> str:
        """What is said in the judged turn."""
        return self.conversation[self.index].content


@dataclass(frozen=True, slots=True)
class HazardCategory:
    """A category that a guard knows.

    Attributes:
        taxonomy: name of the taxonomy; empty for a label that no taxonomy has.
        taxonomy_version: its version.
        code: the category's code in it.
        title: what it covers.
        ailuminate_code: the matching MLCommons AILuminate code; empty if there is none.
    """

    taxonomy: str
    taxonomy_version: str
    code: str
    title: str = ""
    ailuminate_code: str = ""


@dataclass(frozen=True, slots=True)
class CategoryScore:
    """How sure a guard is of one category; None where it names categories without probabilities."""

    category: HazardCategory
    probability: float | None


@dataclass(frozen=True, slots=True)
class GuardReference:
    """Which exact guard judged; digests are SHA-256 in hex.

    Attributes:
        name: resource name, ``guards/{guard}``.
        weights_digest: of everything that the engine loads.
        template_digest: of how a conversation becomes the engine's input.
        calibration_digest: of the threshold and of what each label means.
        engine: what computed the probabilities.
        dtype: number type of the computation.
    """

    name: str
    weights_digest: str
    template_digest: str
    calibration_digest: str
    engine: str
    dtype: str


@dataclass(frozen=True, slots=True)
class PolicyReference:
    """Which exact policy was applied.

    Attributes:
        name: resource name, ``policies/{policy}``; empty for one that came with the request.
        version: that its authors gave it.
        digest: SHA-256 (hex) of its rules.
    """

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A guard's judgement of one turn, or what a policy made of those of several.

    Attributes:
        decision: at ``threshold``.
        guard: who judged.
        threshold: what was applied; None where the guard decides without one.
        unsafe_probability: None where the guard gave no usable one.
        categories: those that reached the threshold, most probable first; empty unless UNSAFE or CONTROVERSIAL.
        unmapped: the guard named something that its taxonomy does not have.
        truncated: only a part of the text was judged.
        windows: parts that the text was judged in because it is longer than the guard reads at once; 1 for most.
        unjudged_reason: UPPER_SNAKE; why one of these parts may hold any hazard where another one decided: it could not
            be judged, or there was no need to. A policy to which that other one's hazard is none makes it an ERROR.
        error_reason: UPPER_SNAKE; empty unless ERROR, or UNSAFE because a policy takes errors for it.
        refusal: whether the judged response declines what it was asked; None where the guard does not say.
        over_refusal: whether it declines a harmless request; None where the guard does not say.
        cached: whether the guard's answer came from the cache.
        all_scores: every category that the guard gave a probability, whatever the threshold; policies read it. Empty
            where it only names categories.
        policy: what was applied; None from a guard.
        guard_verdicts: what each of a policy's several guards said; empty from a guard.
        usage: what judging cost in the inference server: of all windows, stages and guards that were asked.
    """

    decision: Decision
    guard: GuardReference
    threshold: float | None
    unsafe_probability: float | None = None
    categories: tuple[CategoryScore, ...] = ()
    unmapped: bool = False
    truncated: bool = False
    error_reason: str = ""
    refusal: bool | None = None
    over_refusal: bool | None = None
    cached: bool = False
    all_scores: tuple[CategoryScore, ...] = ()
    policy: PolicyReference | None = None
    guard_verdicts: tuple["Verdict", ...] = ()
    windows: int = 1
    unjudged_reason: str = ""
    usage: Usage = NO_USAGE


@dataclass(frozen=True, slots=True)
class GuardDescription:
    """What a guard is and can do.

    Attributes:
        reference: the exact guard.
        description: a sentence.
        aspects: what it can judge.
        categories: what it knows.
        default_threshold: on the unsafe probability; None where it decides without one.
        max_tokens: longest text that it reads whole; None where there is no limit.
    """

    reference: GuardReference
    description: str
    aspects: tuple[Aspect, ...]
    categories: tuple[HazardCategory, ...]
    default_threshold: float | None
    max_tokens: int | None

    @property
    def name(self) -> str:
        """Resource name, ``guards/{guard}``."""
        return self.reference.name
