"""What the safety service says, and the policies that it judges by, as plain values."""

import enum
from dataclasses import dataclass

from evalfleet.errors import EvalFleetError


class Decision(enum.StrEnum):
    """What a guard decided. ERROR means that it could not judge: never read it as safe."""

    ERROR = "error"
    SAFE = "safe"
    UNSAFE = "unsafe"
    CONTROVERSIAL = "controversial"


@dataclass(frozen=True, slots=True)
class HazardScore:
    """One hazard category that reached the threshold; ``probability`` is ``None`` if the guard gives none."""

    taxonomy: str
    code: str
    ailuminate_code: str
    probability: float | None


@dataclass(frozen=True, slots=True)
class GuardReference:
    """Which exact guard judged; verdicts are comparable where the three SHA-256 digests are equal."""

    name: str
    weights_digest: str
    template_digest: str
    calibration_digest: str
    engine: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A guard's judgement of one turn of a conversation, or what a policy made of those of several.

    ``unmapped`` says that the guard named a hazard that its taxonomy does not have; ``guard_verdicts`` holds what each
    of a policy's several guards said. ``policy`` is empty without one, and for a policy of the caller's own, whose
    ``policy_digest`` says which it was. ``windows`` counts the parts in which a long text was judged, and
    ``unjudged_reason`` says why one of them may hold hazards beside ``categories``; empty where these tell all.
    ``computed_tokens`` and ``engine_seconds`` are what the inference server computed for it: nothing where the answer
    was known.
    """

    decision: Decision
    unsafe_probability: float | None
    categories: tuple[HazardScore, ...]
    guard: str
    threshold: float | None
    truncated: bool
    error_reason: str
    refusal: bool | None = None
    over_refusal: bool | None = None
    cached: bool = False
    unmapped: bool = False
    guard_reference: GuardReference | None = None
    policy: str = ""
    policy_digest: str = ""
    guard_verdicts: tuple["Verdict", ...] = ()
    windows: int = 1
    unjudged_reason: str = ""
    computed_tokens: int = 0
    engine_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class HazardCategory:
    """A hazard category that a guard knows; ``ailuminate_code`` is empty if MLCommons AILuminate has none for it."""

    taxonomy: str
    taxonomy_version: str
    code: str
    title: str
    ailuminate_code: str


@dataclass(frozen=True, slots=True)
class Guard:
    """A model that judges safety.

    ``default_threshold`` is ``None`` if it decides without one, ``max_tokens`` if it reads texts of any length whole.
    """

    name: str
    description: str
    reference: GuardReference
    aspects: tuple[str, ...]
    categories: tuple[HazardCategory, ...]
    default_threshold: float | None
    max_tokens: int | None


@dataclass(frozen=True, slots=True)
class RollingVerdict:
    """The verdict on a response so far, or why there is none; only the last one, on the whole text, ``is_final``.

    A verdict is never milder than one before it: where the text so far is judged milder, ``outcome`` repeats the more
    severe verdict and ``current`` holds that on the text so far; elsewhere it is ``None``.
    """

    outcome: Verdict | EvalFleetError
    is_final: bool
    judged_characters: int
    current: Verdict | None = None


@dataclass(frozen=True, slots=True)
class PolicyHazard:
    """A hazard that counts under a policy: an MLCommons AILuminate code, or ``TAXONOMY/CODE`` of a guard.

    ``threshold`` is on its probability; default: the policy's, or else the guard's.
    """

    code: str
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """Which guards judge, which hazards count, and what becomes of errors. The defaults leave everything to the guard.

    ``combination`` is ``any-unsafe`` or ``majority``, ``on_error`` is ``error`` or ``unsafe``, ``on_controversial`` is
    ``keep``, ``unsafe`` or ``safe``, ``on_truncated`` is ``error`` or ``judged-part``. ``name``, ``digest`` and
    ``problem`` are the service's: leave them empty in a policy of your own.
    """

    hazards: tuple[PolicyHazard, ...] = ()
    threshold: float | None = None
    guards: tuple[str, ...] = ()
    combination: str = "any-unsafe"
    on_error: str = "error"
    on_controversial: str = "keep"
    on_truncated: str = "error"
    aspects: tuple[str, ...] = ()
    version: str = ""
    description: str = ""
    name: str = ""
    digest: str = ""
    problem: str = ""
