"""Holds resources to Kubernetes' own schemas, strictly and in several versions, and to those of custom resources."""

import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import jsonschema
import yaml
from referencing import Registry, Resource

from k8s.verify.provided import K8S
from k8s.verify.rendered import Document, Problem, Rendered, called

VERSIONS: Final = ("1.34", "1.35", "1.36", "1.37")
WITHOUT_SCHEMA: Final = frozenset(
    {
        ("cert-manager.io/v1", "Certificate"),
        ("cert-manager.io/v1", "Issuer"),
        ("gateway.envoyproxy.io/v1alpha1", "BackendTrafficPolicy"),
        ("gateway.networking.k8s.io/v1", "BackendTLSPolicy"),
        ("gateway.networking.k8s.io/v1", "Gateway"),
        ("gateway.networking.k8s.io/v1", "GRPCRoute"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
        ("kueue.x-k8s.io/v1beta2", "ClusterQueue"),
        ("kueue.x-k8s.io/v1beta2", "LocalQueue"),
        ("kueue.x-k8s.io/v1beta2", "ResourceFlavor"),
    }
)
"""Custom resources that are used and whose schemas are not at hand here."""
_SCHEMAS: Final = files("kubernetes_validate") / "kubernetes-json-schema"
_DEFINITIONS: Final = "_definitions.json"


class Schemas:
    """The schemas of some versions of Kubernetes and of a folder of custom resource definitions.

    Args:
        versions: of Kubernetes.
        crds: folder of definitions (*.yaml); ``None`` if it is not at hand, which leaves their resources unchecked.
    """

    def __init__(self, versions: tuple[str, ...] = VERSIONS, crds: Path | None = None) -> None:
        self._versions = versions
        self._custom = {} if crds is None else dict(_custom_validators(crds))
        self._known_good: set[str] = set()

    def check(self, rendered: Rendered) -> Iterator[Problem]:
        """Yield what the schemas say of each resource."""
        for document in rendered.documents:
            written = json.dumps(document, sort_keys=True)
            if written in self._known_good:
                continue
            problems = list(self._problems(document))
            if not problems:
                self._known_good.add(written)
            yield from (Problem(called(document), text) for text in problems)

    def is_checked(self, document: Document) -> bool:
        """Whether there is a schema for a resource."""
        return (
            _kind(document) in self._custom or _kubernetes_validator(self._versions[-1], *_kind(document)) is not None
        )

    def _problems(self, document: Document) -> Iterator[str]:
        kind = _kind(document)
        if kind in self._custom:
            yield from _errors(self._custom[kind], document, "its definition")
            return
        if kind in WITHOUT_SCHEMA or (not self._custom and _is_custom(kind[0])):
            return
        for version in self._versions:
            validator = _kubernetes_validator(version, *kind)
            if validator is None:
                yield f"Kubernetes {version} has no {kind[0]} {kind[1]}"
            else:
                yield from _errors(validator, document, f"Kubernetes {version}")


def find_crds() -> Path | None:
    """Return the folder of custom resource definitions beside the public data sets; ``None`` if there is none."""
    told = os.environ.get("EVALFLEET_DATA_DIR", "").split(os.pathsep)[0]
    folder = (Path(told) if told else K8S.parents[1] / "shared" / "data") / "crds"
    return folder if folder.is_dir() else None


def _kind(document: Document) -> tuple[str, str]:
    return document["apiVersion"], document["kind"]


def _is_custom(api_version: str) -> bool:
    group = api_version.partition("/")[0]
    return "." in group and not group.endswith(".k8s.io")


def _errors(validator: Any, document: Document, by: str) -> Iterator[str]:
    for error in validator.iter_errors(document):
        path = ".".join(str(each) for each in error.absolute_path) or "the resource"
        yield f"{by} refuses {path}: {error.message[:300]}"


@cache
def _kubernetes_validator(version: str, api_version: str, kind: str) -> Any | None:
    """Return what validates a kind as a version of Kubernetes does; ``None`` if it has no such kind."""
    group, _, number = api_version.rpartition("/")
    prefix = f"{group.partition('.')[0]}-" if group else ""
    file = _SCHEMAS / f"v{version}.0-local-strict" / f"{kind.lower()}-{prefix}{number}.json"
    if not file.is_file():
        return None
    return jsonschema.Draft202012Validator(json.loads(file.read_text()), registry=_definitions(version))


@cache
def _definitions(version: str) -> Any:
    definitions = json.loads((_SCHEMAS / f"v{version}.0-local-strict" / _DEFINITIONS).read_text())
    return Resource.from_contents(definitions) @ Registry()


def _custom_validators(folder: Path) -> Iterator[tuple[tuple[str, str], Any]]:
    for file in sorted(folder.glob("*.yaml")):
        definition = yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]
        for version in definition["versions"]:
            schema = _strict(version["schema"]["openAPIV3Schema"])
            # The API server itself checks what every resource has.
            schema["properties"]["metadata"] = {"type": "object"}
            kind = (f"{definition['group']}/{version['name']}", definition["names"]["kind"])
            yield kind, jsonschema.Draft202012Validator(schema)


def _strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a structural schema that refuses unknown fields, which the API server would drop silently."""
    strict = dict(schema)
    if "properties" in schema:
        strict["properties"] = {name: _strict(each) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
            strict["additionalProperties"] = False
    for field in ("items", "additionalProperties"):
        if isinstance(schema.get(field), Mapping):
            strict[field] = _strict(schema[field])
    return strict
