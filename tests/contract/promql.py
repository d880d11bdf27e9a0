"""The queries of rules, dashboards and scalers, and what they take for granted."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

ROOT: Final = Path(__file__).parents[2]
RULES: Final = (ROOT / "deploy/prometheus/recording.yaml", ROOT / "deploy/prometheus/alerts.yaml")
DASHBOARDS: Final = tuple(sorted((ROOT / "deploy/grafana/dashboards").glob("*.json")))
_SUFFIXES: Final = ("_bucket", "_count", "_sum")
_NAME: Final = re.compile(
    r"(?<![\w:\"{])((?:[a-z_]+:)?(?:evalfleet|grpc_server|process)_[a-z0-9_]+(?::[a-z0-9_]+)?|up)\b"
)
_LABEL: Final = re.compile(r"([a-z_]+)\s*(?:=~|!~|!=|=)\s*\"")
_GROUPING: Final = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")


class Query(NamedTuple):
    """A query and whose it is."""

    owner: str
    expression: str


class Selector(NamedTuple):
    """A series that a query reads, and the labels that it is told apart by there."""

    name: str
    labels: frozenset[str]


def rules() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each rule by its name."""
    for path in RULES:
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            for rule in group["rules"]:
                yield rule.get("alert") or rule["record"], rule


def queries() -> Iterator[Query]:
    """Yield all of them: of rules, dashboards and KEDA's triggers."""
    for name, rule in rules():
        yield Query(name, rule["expr"])
    for path in DASHBOARDS:
        document = json.loads(path.read_text(encoding="utf-8"))
        for panel in document["panels"]:
            for target in panel["targets"]:
                yield Query(f"{path.stem}: {panel['title']}", runnable(target["expr"]))
    for path in sorted((ROOT / "k8s").glob("components/keda*/*.yaml")):
        for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            yield from (Query(f"{path.parent.name}/{path.stem}", each) for each in _asked_by_triggers(manifest))


def _asked_by_triggers(manifest: Any) -> Iterator[str]:
    """Yield the queries of Prometheus triggers, wherever in a manifest, or in a patch of one, they stand."""
    if isinstance(manifest, list):
        for each in manifest:
            yield from _asked_by_triggers(each)
    elif isinstance(manifest, dict):
        if manifest.get("type") == "prometheus":
            yield str(manifest["metadata"]["query"])
        for each in manifest.values():
            yield from _asked_by_triggers(each)


def runnable(expression: str) -> str:
    """Put values in the place of Grafana's variables."""
    return expression.replace("$__range", "1h").replace("$caller", ".*").replace("$run", ".*")


def selectors(expression: str) -> Iterator[Selector]:
    """Yield the series of a query; labels of a grouping are taken for those of every series in it."""
    grouped = {
        label.strip()
        for found in _GROUPING.finditer(expression)
        for label in found.group(1).split(",")
        if label.strip()
    }
    for found in _NAME.finditer(expression):
        matchers = ""
        if expression[found.end() :].startswith("{"):
            matchers = expression[found.end() : expression.index("}", found.end())]
        labels = {match.group(1) for match in _LABEL.finditer(matchers)} | grouped
        yield Selector(found.group(1), frozenset(labels))


def base_name(name: str, histograms: set[str]) -> str:
    """Return the name of the metric that a series belongs to."""
    for suffix in _SUFFIXES:
        if name.endswith(suffix) and name.removesuffix(suffix) in histograms:
            return name.removesuffix(suffix)
    return name
