"""The tables of docs/metrics.md, made from what the code registers.

`python -m tests.contract.metrics_inventory` writes them there.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from services.code_runner.metrics import CodeRunnerMetrics
from services.evaluation.runs.outcome_metrics import OutcomeMetrics
from services.evaluation.runs.paced_peers import PeerMetrics
from services.evaluation.runs.run_metrics import RunMetrics
from services.generation.admission import Admission as EngineAdmission
from services.generation.admission import AdmissionLimits
from services.generation.cost.accounting import CallerMetrics
from services.generation.foreign.backend import ForeignTritons
from services.generation.foreign.target import AllowedTargets
from services.generation.model_metrics import ModelMetrics
from services.generation.pool.metrics import PoolMetrics
from services.inference.engines.seams import METRICS
from services.runtime.cache.metrics import CacheMetrics
from services.runtime.interceptors.admission import Admission
from services.runtime.interceptors.metrics import CallMetrics
from services.runtime.security.guard import Guard
from services.runtime.security.handshakes.refused import RefusedHandshakes
from services.runtime.security.ports import _Expiries
from services.runtime.work import Work, WorkMetrics
from services.safety.cascade import CascadeMetrics
from services.safety.counted_guard import VerdictMetrics
from services.scoring.admission import Admission as ScoringAdmission
from services.scoring.pool.pool import ScorerPool
from services.scoring.remote_sandbox import RemoteSandbox

PAGE: Final = Path(__file__).parents[2] / "docs" / "metrics.md"
BEGIN: Final = "<!-- made by `python -m tests.contract.metrics_inventory`: do not edit below -->\n"

Make = Callable[[CollectorRegistry], object]


class Series(NamedTuple):
    """One metric, under the name that queries use."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def _registered(make: Callable[[], Any]) -> Make:
    return lambda registry: registry.register(make())


def _lifecycle() -> Any:
    return SimpleNamespace(records=lambda: (), memory=SimpleNamespace(booked_bytes=0, evictions=0))


def _pool() -> Any:
    return SimpleNamespace(ready_count=0, away_count=0, moved_requests=0)


def _expiries() -> Any:
    files: Any = SimpleNamespace(current=lambda: SimpleNamespace(expires_seconds=0.0))
    return _Expiries(files, None)


class _EngineMetrics:
    """What engines report, without importing them: that would take as long as all other tests."""

    def collect(self) -> Iterator[Any]:
        for name, (kind, text) in METRICS.items():
            yield (GaugeMetricFamily if kind == "gauge" else CounterMetricFamily)(name, f"{text}.", labels=["model"])


def _caches(cache: str) -> Make:
    return lambda registry: CacheMetrics(cache, registry)


# By who has them; with the module that makes them.
MAKERS: Final[Mapping[str, tuple[tuple[str, Make], ...]]] = {
    "every service": (
        ("services.runtime.work", _registered(lambda: WorkMetrics([lambda: Work(backlog_tokens=0)]))),
        ("services.runtime.interceptors.metrics", _registered(CallMetrics)),
        ("services.runtime.interceptors.admission", _registered(lambda: Admission(1, 1))),
        ("services.runtime.security.guard", _registered(lambda: _bare(Guard, _refusals={}))),
        ("services.runtime.security.handshakes.refused", _registered(lambda: _bare(RefusedHandshakes, _counts={}))),
        ("services.runtime.security.ports", _registered(_expiries)),
        ("services.runtime.entry", lambda registry: ProcessCollector(registry=registry)),
    ),
    "evaluation": (
        ("services.evaluation.runs.outcome_metrics", OutcomeMetrics),
        ("services.evaluation.runs.paced_peers", PeerMetrics),
        ("services.evaluation.runs.run_metrics", _registered(lambda: RunMetrics(tuple))),
    ),
    "generation": (
        ("services.generation.admission", lambda registry: EngineAdmission(AdmissionLimits(1, 1), registry)),
        ("services.generation.model_metrics", _registered(lambda: ModelMetrics(_lifecycle()))),
        ("services.generation.pool.metrics", _registered(lambda: PoolMetrics(_pool()))),
        ("services.generation.cost.accounting", CallerMetrics),
        ("services.generation.foreign.backend", lambda registry: ForeignTritons(AllowedTargets(()), registry)),
        ("services.runtime.cache.metrics", _caches("generation")),
    ),
    "safety": (
        ("services.safety.counted_guard", VerdictMetrics),
        ("services.safety.cascade", CascadeMetrics),
        ("services.runtime.cache.metrics", _caches("safety")),
    ),
    "scoring": (
        ("services.scoring.admission", lambda registry: ScoringAdmission(metrics=registry)),
        ("services.scoring.pool.pool", lambda registry: ScorerPool(metrics=registry)),
        (
            "services.scoring.remote_sandbox",
            lambda registry: RemoteSandbox(_no_channel(), target="", programs=1, metrics=registry),
        ),
        ("services.runtime.cache.metrics", _caches("judge")),
    ),
    "code_runner": (("services.code_runner.metrics", CodeRunnerMetrics),),
    "triton": (("services.inference.local_models", _registered(lambda: _EngineMetrics())),),
}


def _bare(of: type, **fields: Any) -> Any:
    """Return an object without running its constructor, for collectors that are much else besides."""
    made: Any = object.__new__(of)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def _no_channel() -> Any:
    return SimpleNamespace(**{kind: lambda *_, **__: None for kind in ("unary_unary", "stream_stream")})


class Bound(NamedTuple):
    """Why a label has few values."""

    values: str
    most: str


LABELS: Final[Mapping[str, Bound]] = {
    "caller": Bound("who asks, as it names itself or was identified; `others` from the 51st on", "51"),
    "cascade": Bound("cascades of the guards file", "the file's"),
    "cause": Bound("why a worker ended", "5"),
    "code": Bound("gRPC status codes", "17"),
    "decision": Bound("`safe`, `unsafe`, `controversial`, `error`, `unjudged`", "5"),
    "ending": Bound("how a program ended", "10"),
    "grpc_method": Bound("methods of the contract; all others are `other`", "the contract's"),
    "grpc_status": Bound("gRPC status codes", "17"),
    "guard": Bound("guards of the service", "the guards file's"),
    "is_last": Bound("`true`, `false`", "2"),
    "kind": Bound("`computed_prompt`, `computed_completion`, `prefix_saved`, `cache_saved`", "4"),
    "model": Bound("models that are loaded into Triton; checkpoints of a host share one", "what fits into memory"),
    "outcome": Bound("what came of it: `hit`, `miss`, …, or the reason of an error of ours", "20"),
    "port": Bound("`fleet`, `public`", "2"),
    "priority": Bound("`interactive`, `evaluation`, `background`", "3"),
    "protocol": Bound("protocols of foreign Tritons", "3"),
    "reason": Bound("reasons of errors; `other` from the 51st on", "51"),
    "result": Bound("`scored`, `failed`", "2"),
    "run": Bound("open runs that a replica of the evaluation service works on; gone when they end", "50 a replica"),
    "service": Bound("services of the fleet", "6"),
    "stage": Bound("stages of the cascades", "the guards file's"),
    "state": Bound(
        "`running`, `queued`; of models `loading`, `ready`, `failed`, …; of Tritons `ready`, `away`; of items "
        "`scored`, `failed`, `open`",
        "10",
    ),
}
"""Each label that a metric may have. Items, requests, checkpoints, texts and ended runs are not among them: they are
without number, and belong into traces and log lines."""


def series_of(make: Make) -> Iterator[Series]:
    """Yield what a maker registers."""
    registry = CollectorRegistry()
    make(registry)
    for collector in registry._collector_to_names:
        for family in collector.collect():
            told = collector if hasattr(collector, "_labelnames") else family
            labels: tuple[str, ...] = tuple(getattr(told, "_labelnames", ()))
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield Series(name, family.type, labels, family.documentation)


def tables() -> str:
    """Return the page's tables."""
    parts = []
    for owner, makers in MAKERS.items():
        rows = sorted({series for _, make in makers for series in series_of(make)})
        lines = [f"## {owner[:1].upper()}{owner[1:]}", "", "| series | type | labels | meaning |", "|---|---|---|---|"]
        for each in rows:
            labels = ", ".join(f"`{label}`" for label in each.labels) or "–"
            lines.append(f"| `{each.name}` | {each.kind} | {labels} | {each.meaning} |")
        parts.append("\n".join(lines))
    lines = ["## Labels", "", "| label | values | at most |", "|---|---|---|"]
    lines += [f"| `{name}` | {bound.values} | {bound.most} |" for name, bound in sorted(LABELS.items())]
    return "\n\n".join([*parts, "\n".join(lines)]) + "\n"


if __name__ == "__main__":
    kept, begin, _ = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    assert begin, f"{PAGE} lost its mark"
    PAGE.write_text(kept + begin + "\n" + tables(), encoding="utf-8")
