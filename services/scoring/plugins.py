"""Scorers that other distributions bring, by entry points of the group ``evalfleet.scorers``.

A plug-in that cannot be used does not take the others down: it is reported at the start, and whoever asks for it is
told why it is not there. Two scorers of one name are an error of the start, for whichever won would silently change
what others' scores mean.
"""

import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, cast

import structlog

from services.scoring.contract import (
    AnyScorer,
    AsyncScorer,
    Output,
    Score,
    Scorer,
    ScorerDescription,
    ScorerParameters,
    ScoringItem,
    is_async,
)
from services.scoring.parameters import describe_fields
from services.scoring.registry import BrokenScorer, ScorerRegistry, reference_of

PLUGIN_GROUP: Final = "evalfleet.scorers"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_METRIC_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.@-]{0,62}")


@dataclass(frozen=True, slots=True)
class PluginScorer:
    """A scorer of another distribution, whose version is part of the digest."""

    inner: Scorer[Any]
    about: ScorerDescription
    parameters_type: type[ScorerParameters]

    def score(self, parameters: ScorerParameters, item: ScoringItem, output: Output) -> Score:
        """Judge as the plug-in does."""
        return _checked(self.inner.score(parameters, item, output))


@dataclass(frozen=True, slots=True)
class AsyncPluginScorer:
    """A scorer of another distribution that waits; its distribution's version is part of the digest."""

    inner: AsyncScorer[Any]
    about: ScorerDescription
    parameters_type: type[ScorerParameters]

    async def score(self, parameters: ScorerParameters, item: ScoringItem, output: Output) -> Score:
        """Judge as the plug-in does."""
        return _checked(await self.inner.score(parameters, item, output))


def registry_with_plugins(own: Iterable[AnyScorer]) -> ScorerRegistry:
    """Return a registry of the service's own scorers and those of all installed plug-ins.

    Raises:
        StartupError: two scorers have the same name.
    """
    scorers: list[AnyScorer] = list(own)
    broken: list[BrokenScorer] = []
    log = structlog.get_logger(__name__)
    for entry in entry_points(group=PLUGIN_GROUP):
        origin = _origin(entry)
        try:
            scorers.append(_load(entry, origin))
        except (Exception, SystemExit) as error:
            problem = f"{type(error).__name__}: {error}"
            broken.append(BrokenScorer(entry.name, origin, problem))
            log.error("scorer_plugin_broken", plugin=entry.name, distribution=origin, problem=problem, exc_info=error)
        else:
            log.info("scorer_plugin_loaded", plugin=entry.name, distribution=origin)
    return ScorerRegistry(scorers, broken)


def _checked(score: object) -> Score:
    """Return what a plug-in gave if it can be told to a caller: otherwise it would take a whole batch down.

    Raises:
        TypeError: it is no score.
        ValueError: its answer is no text that can be sent, a metric's name is none, or its value is no number.
    """
    if not isinstance(score, Score):
        raise TypeError(f"score gave {type(score).__name__}, not a Score")
    metrics = {str(name): float(value) for name, value in score.metrics.items()}
    for name, value in metrics.items():
        if not _METRIC_NAME.fullmatch(name):
            rule = "1 to 63 of a-z, A-Z, 0-9, _, ., @ and -, first a letter"
            raise ValueError(f"a metric is called {name!r}, but a name has {rule}")
        if math.isnan(value):
            # One such value would make every mean over its items none, too.
            raise ValueError(f"its metric {name} is NaN; leave out what is not known")
    if score.extracted_answer is not None:
        score.extracted_answer.encode()
    return replace(score, metrics=metrics)


def _origin(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def _load(entry: EntryPoint, origin: str) -> AnyScorer:
    """Return the scorer that an entry point names: an instance, or a class or function that makes one.

    Raises:
        Exception: it cannot be loaded, or is no scorer.
    """
    loaded = entry.load()
    scorer = loaded() if isinstance(loaded, type) or not hasattr(loaded, "score") else loaded
    about = getattr(scorer, "about", None)
    parameters_type = getattr(scorer, "parameters_type", None)
    if not isinstance(about, ScorerDescription) or not callable(getattr(scorer, "score", None)):
        raise TypeError(f"{entry.value} is no scorer: it needs about, parameters_type and score")
    if not isinstance(parameters_type, type) or not issubclass(parameters_type, ScorerParameters):
        raise TypeError(f"the parameters_type of {entry.value} is no subclass of ScorerParameters")
    if about.name != entry.name or not _NAME.fullmatch(about.name):
        raise ValueError(
            f"its scorer is called {about.name!r}, which must be the entry point's name: a-z, 0-9 and _, first a letter"
        )
    rules = hashlib.sha256(f"{origin}\n{about.rules_digest}".encode()).hexdigest()
    about = replace(about, rules_digest=rules)
    plugin: AnyScorer
    if is_async(scorer):
        plugin = AsyncPluginScorer(cast(AsyncScorer[Any], scorer), about, parameters_type)
    else:
        plugin = PluginScorer(cast(Scorer[Any], scorer), about, parameters_type)
    # What ListScorers will say of it must not be what breaks ListScorers.
    reference_of(plugin, parameters_type())
    for fields in (parameters_type, about.details):
        if fields is not None:
            list(describe_fields(fields))
    return plugin
