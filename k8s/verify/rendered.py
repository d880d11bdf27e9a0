"""What an overlay renders to, and the views of it that the checks need."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

Document: TypeAlias = Mapping[str, Any]

POD_OWNERS = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")
SERVED = ("Deployment", "StatefulSet")
"""Kinds whose pods serve, and so are probed, spread and guarded against disruptions."""


class Problem(NamedTuple):
    """What is wrong with a resource, which is called ``kind/name``."""

    resource: str
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem of an overlay, with the name of the rule that is broken."""

    overlay: str
    rule: str
    problem: Problem

    def __str__(self) -> str:
        return f"{self.overlay}: {self.problem.resource}: {self.problem.text} [{self.rule}]"


@dataclass(frozen=True, slots=True)
class Pod:
    """The pods of a workload, as its template has them.

    Attributes:
        owner: the workload.
        labels: of the template.
        spec: of the template.
    """

    owner: Document
    labels: Mapping[str, str]
    spec: Mapping[str, Any]

    @property
    def resource(self) -> str:
        """The workload as ``kind/name``."""
        return called(self.owner)

    @property
    def name(self) -> str:
        """The workload's name."""
        return str(self.owner["metadata"]["name"])

    @property
    def serves(self) -> bool:
        """Whether it runs for ever, unlike a job."""
        return self.owner["kind"] in SERVED

    @property
    def containers(self) -> Sequence[Mapping[str, Any]]:
        """All containers, initial ones first."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    @property
    def ports(self) -> Mapping[str, int]:
        """Ports of all containers by name; one without a name has its number as its name."""
        listed = [port for each in self.containers for port in each.get("ports", ())]
        return {port.get("name", str(port["containerPort"])): port["containerPort"] for port in listed}

    def port(self, told: int | str) -> int | None:
        """The number of a port that is told by name or number; ``None`` if no container has it."""
        if isinstance(told, int):
            return told if told in self.ports.values() else None
        return self.ports.get(told)


class Rendered:
    """All resources of one overlay."""

    def __init__(self, overlay: str, documents: Sequence[Document]) -> None:
        self.overlay = overlay
        self.documents = tuple(documents)

    def of_kind(self, *kinds: str) -> list[Document]:
        """Resources of any of these kinds."""
        return [each for each in self.documents if each["kind"] in kinds]

    def find(self, kind: str, name: str) -> Document | None:
        """The resource of that name; ``None`` if there is none."""
        return next((each for each in self.of_kind(kind) if each["metadata"]["name"] == name), None)

    @cached_property
    def pods(self) -> tuple[Pod, ...]:
        """One for each workload."""
        return tuple(_pod(each) for each in self.of_kind(*POD_OWNERS))

    def selected(self, selector: Mapping[str, Any]) -> list[Pod]:
        """The workloads whose pods a label selector selects; an empty selector selects all."""
        return [each for each in self.pods if selects(selector, each.labels)]


Check: TypeAlias = Callable[[Rendered], Iterator[Problem]]


def called(document: Document) -> str:
    """Return ``kind/name``."""
    return f"{document['kind']}/{document['metadata']['name']}"


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector (matchLabels, matchExpressions) selects what has these labels."""
    if any(labels.get(name) != value for name, value in selector.get("matchLabels", {}).items()):
        return False
    return all(_holds(each, labels) for each in selector.get("matchExpressions", ()))


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values", ())
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case _:
            return value is None


def _pod(owner: Document) -> Pod:
    spec = owner["spec"]
    if owner["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    template = spec["template"]
    return Pod(owner, template.get("metadata", {}).get("labels", {}), template["spec"])
