"""Checks that volumes can be mounted by all who mount them."""

from collections.abc import Iterator
from typing import Final

from k8s.verify.rendered import Pod, Problem, Rendered, called, selects

_NODE: Final = "kubernetes.io/hostname"
_MANY: Final = "ReadWriteMany"


def check_storage(rendered: Rendered) -> Iterator[Problem]:
    """A volume of one node is mounted by one pod, or by several that all go where one and the same pod is."""
    for claim in rendered.of_kind("PersistentVolumeClaim"):
        mounting = [each for each in rendered.pods if claim["metadata"]["name"] in _claims(each)]
        if _MANY in claim["spec"]["accessModes"] or not mounting:
            continue
        single = [each for each in rendered.pods if _is_one(each)]
        if not any(all(each is pod or _follows(each, pod) for each in mounting) for pod in single):
            named = ", ".join(each.resource for each in mounting)
            yield Problem(called(claim), f"is a volume of one node, and whose pods may come to several: {named}")


def _is_one(pod: Pod) -> bool:
    return int(pod.owner["spec"].get("replicas", 1)) == 1


def _follows(pod: Pod, other: Pod) -> bool:
    """Whether a pod goes to the node of another one, or nowhere."""
    affinity = pod.spec.get("affinity", {}).get("podAffinity", {})
    terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", ())
    return any(each["topologyKey"] == _NODE and selects(each["labelSelector"], other.labels) for each in terms)


def _claims(pod: Pod) -> set[str]:
    volumes = pod.spec.get("volumes", ())
    return {each["persistentVolumeClaim"]["claimName"] for each in volumes if each.get("persistentVolumeClaim")}
