"""What the cluster and its operator bring (``k8s/provided.yaml``)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

K8S: Final = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Provided:
    """What manifests may refer to although no overlay has it.

    Attributes:
        namespaces: selectors of namespaces that may be peers, by what is in them: ``dns``, ``clients``, ``prometheus``,
            ``collector``, ``keda``, ``gateway``.
        dns: the peers of network policies that clusters have their DNS at, by what they are called.
        secrets: keys of the Secrets that an operator makes, by name.
        config_maps: keys of the ConfigMaps that an operator makes, by name.
        classes: names of classes that the cluster has, by kind.
    """

    namespaces: Mapping[str, Mapping[str, Any]]
    dns: Mapping[str, Mapping[str, Any]]
    secrets: Mapping[str, Sequence[str]]
    config_maps: Mapping[str, Sequence[str]]
    classes: Mapping[str, Sequence[str]]


def _read(file: Path) -> Provided:
    told = yaml.safe_load(file.read_text(encoding="utf-8"))
    return Provided(
        namespaces={each["name"]: each["selector"] for each in told["namespaces"]},
        dns={each["name"]: each["peer"] for each in told["dns"]},
        secrets={each["name"]: each["keys"] for each in told["secrets"]},
        config_maps={each["name"]: each["keys"] for each in told["config_maps"]},
        classes=told["classes"],
    )


PROVIDED: Final = _read(K8S / "provided.yaml")
