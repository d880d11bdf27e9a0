"""Checks of the label by which one service's part of an overlay is applied."""

from collections.abc import Iterator
from typing import Final

from k8s.verify.rendered import Document, Pod, Problem, Rendered, called, selects

LABEL: Final = "app.kubernetes.io/name"


def check_labels(rendered: Rendered) -> Iterator[Problem]:
    """A workload, its account, Service and disruption budget have its pods' label, so that it is upgraded alone."""
    for pod in rendered.pods:
        wanted = pod.labels.get(LABEL)
        for document in (pod.owner, *_parts(rendered, pod)):
            told = document["metadata"].get("labels", {}).get(LABEL)
            if wanted is None or told != wanted:
                yield Problem(called(document), f"has {LABEL}={told}, and the pods of {pod.resource} {wanted}")


def _parts(rendered: Rendered, pod: Pod) -> Iterator[Document]:
    account = rendered.find("ServiceAccount", str(pod.spec.get("serviceAccountName")))
    yield from () if account is None else (account,)
    for service in rendered.of_kind("Service"):
        if selects({"matchLabels": service["spec"]["selector"]}, pod.labels):
            yield service
    for budget in rendered.of_kind("PodDisruptionBudget"):
        if selects(budget["spec"]["selector"], pod.labels):
            yield budget
