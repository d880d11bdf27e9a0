"""The families of generative guards, by the kind that a guards file names."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from services.safety.formats import llama_guard, nemoguard, qwen3guard, shieldgemma, wildguard
from services.safety.formats.gpt_oss_safeguard import GptOssSafeguard
from services.safety.formats.granite_guardian import GraniteGuardian
from services.safety.formats.guard_format import GuardFormat
from services.safety.formats.llama_guard import LlamaGuard
from services.safety.formats.nemoguard import NemoGuard
from services.safety.formats.neutralising import Neutraliser
from services.safety.formats.qwen3guard import Qwen3Guard
from services.safety.formats.shieldgemma import ShieldGemma
from services.safety.formats.taxonomy import Taxonomy
from services.safety.formats.wildguard import WildGuard


@dataclass(frozen=True, slots=True)
class FormatOptions:
    """What a format is made for.

    Attributes:
        special_tokens: of the checkpoint's tokenizer.
        has_template: whether the checkpoint has a chat template.
        categories: codes to ask about, where a family asks one question a category; empty for its default.
        policy: the deployer's own policy, where a family takes one.
        taxonomy: the policy's categories; None where the family brings its own.
        reasoning_effort: where a family reasons.
    """

    special_tokens: frozenset[str] = frozenset()
    has_template: bool = True
    categories: tuple[str, ...] = ()
    policy: str = ""
    taxonomy: Taxonomy | None = None
    reasoning_effort: str = "low"


@dataclass(frozen=True, slots=True)
class Family:
    """A family of guards.

    Attributes:
        build: makes its format.
        needs_template: it cannot be asked without the checkpoint's chat template.
        asks_by_category: it takes ``categories``.
        takes_policy: it needs ``policy`` and ``taxonomy``.
    """

    build: Callable[[FormatOptions], GuardFormat]
    needs_template: bool = True
    asks_by_category: bool = False
    takes_policy: bool = False


def _neutraliser(options: FormatOptions, labels: Iterable[str] = ()) -> Neutraliser:
    return Neutraliser(options.special_tokens, labels)


def _llama_guard(taxonomy: str, *, as_parts: bool) -> Family:
    def build(options: FormatOptions) -> GuardFormat:
        neutraliser = _neutraliser(options, llama_guard.LABELS)
        return LlamaGuard(taxonomy, neutraliser, has_template=options.has_template, as_parts=as_parts)

    return Family(build, needs_template=False)


def _safeguard(options: FormatOptions) -> GuardFormat:
    assert options.taxonomy is not None, "a guards file without the policy's categories is refused when it is read"
    return GptOssSafeguard(options.policy, options.taxonomy, options.reasoning_effort, _neutraliser(options))


def _shieldgemma(options: FormatOptions) -> GuardFormat:
    neutraliser = _neutraliser(options, shieldgemma.LABELS)
    return ShieldGemma(options.categories, neutraliser, has_template=options.has_template)


FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "llama-guard-3": _llama_guard("llama-guard-3", as_parts=False),
        "llama-guard-3-1b": _llama_guard("llama-guard-3-1b", as_parts=True),
        "llama-guard-4": _llama_guard("llama-guard-4", as_parts=True),
        "shieldgemma": Family(_shieldgemma, needs_template=False, asks_by_category=True),
        "wildguard": Family(lambda told: WildGuard(_neutraliser(told, wildguard.LABELS)), needs_template=False),
        "granite-guardian": Family(
            lambda told: GraniteGuardian(told.categories, _neutraliser(told)), asks_by_category=True
        ),
        "qwen3guard": Family(lambda told: Qwen3Guard(_neutraliser(told, qwen3guard.LABELS))),
        "nemoguard": Family(lambda told: NemoGuard(_neutraliser(told, nemoguard.LABELS))),
        "gpt-oss-safeguard": Family(_safeguard, takes_policy=True),
    }
)
"""By kind; the kinds are what users write."""


def known_categories(family: Family) -> Sequence[str]:
    """Return the codes that a family can be asked about one by one."""
    return tuple(family.build(FormatOptions()).taxonomy.categories)
