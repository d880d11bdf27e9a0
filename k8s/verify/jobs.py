"""Checks that a job's answer is its program's, and that it is kept until somebody has read it."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from k8s.verify.rendered import Problem, Rendered, called

_LIMITS: Final = ("successfulJobsHistoryLimit", "failedJobsHistoryLimit")
_KEPT: Final = 100
"""Jobs of a suspended CronJob that are kept at least, if they have a time to live."""
_DISRUPTED: Final = "DisruptionTarget"


def check_jobs(rendered: Rendered) -> Iterator[Problem]:
    """Jobs made of a suspended CronJob are kept as long as they say, and one whose pod is evicted has not failed."""
    for cron_job in rendered.of_kind("CronJob"):
        spec = cron_job["spec"]
        if spec.get("suspend") and "ttlSecondsAfterFinished" in spec["jobTemplate"]["spec"]:
            for limit in _LIMITS:
                if spec.get(limit, 0) < _KEPT:
                    yield Problem(called(cron_job), f"its jobs are gone before their time: {limit} is below {_KEPT}")
    for owner in rendered.of_kind("Job", "CronJob"):
        spec = owner["spec"].get("jobTemplate", owner)["spec"]
        if spec.get("backoffLimit") == 0 and not _survives_eviction(spec):
            yield Problem(called(owner), "fails when its pod is evicted: podFailurePolicy does not ignore that")
    for pod in rendered.pods:
        for container in pod.containers:
            words = container.get("args", ())
            if not pod.serves and words[:2] == ["evalfleet", "run"] and "--request-id" not in words:
                yield Problem(pod.resource, "a pod in place of an evicted one starts a second run: no --request-id")


def _survives_eviction(spec: Mapping[str, Any]) -> bool:
    rules = spec.get("podFailurePolicy", {}).get("rules", ())
    ignored = [rule.get("onPodConditions", ()) for rule in rules if rule["action"] == "Ignore"]
    return any(each["type"] == _DISRUPTED for conditions in ignored for each in conditions)
