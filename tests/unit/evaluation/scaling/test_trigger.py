"""A trigger's metadata is read, and what is wrong with it is named."""

import pytest

from services.evaluation.scaling.demand import Deployment
from services.evaluation.scaling.trigger import check_metric_name, read_trigger
from services.runtime.errors import InvalidArgumentError

GIVEN = {"deployment": "generation", "workPerReplica": "64", "scalerAddress": "evaluation:8100"}


def test_reads_what_is_given_beside_kedas_own_entries() -> None:
    trigger = read_trigger(GIVEN)
    assert (trigger.deployment, trigger.work_per_replica) == (Deployment.GENERATION, 64.0)
    assert read_trigger({**GIVEN, "deployment": "guard", "workPerReplica": "0.5"}).metric_name == "evalfleet-guard-work"


@pytest.mark.parametrize("work", ["0", "-1", "nan", "inf", "64 items", "1e-4", "1e10"])
def test_work_that_kubernetes_cannot_divide_by_is_refused(work: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        read_trigger({**GIVEN, "workPerReplica": work})
    assert [each.field for each in caught.value.field_violations] == ["scaledObjectRef.scalerMetadata.workPerReplica"]


def test_everything_that_is_wrong_is_told_at_once_with_the_nearest_name() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        read_trigger({"deployment": "guards", "workPerReplca": "64"})
    told = {each.field.rpartition(".")[2]: each.description for each in caught.value.field_violations}
    assert "did you mean guard?" in told["deployment"]
    assert "is 'workPerReplca' meant for it?" in told["workPerReplica"]


def test_a_metric_of_another_trigger_is_unknown() -> None:
    check_metric_name(read_trigger(GIVEN), "evalfleet-generation-work")
    with pytest.raises(InvalidArgumentError, match="evalfleet-generation-work") as caught:
        check_metric_name(read_trigger(GIVEN), "evalfleet-guard-work")
    assert caught.value.reason == "UNKNOWN_METRIC"
