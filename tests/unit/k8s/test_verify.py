"""`make verify-k8s` on the production overlay: nothing to say of it as it is, and of each planted fault its words."""

import copy
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from k8s.verify.command import CHECKS, SCHEMA_RULE, main
from k8s.verify.kubectl import OVERLAYS, KubectlError, find_kubectl, render
from k8s.verify.rendered import Finding, Rendered, called
from k8s.verify.schemas import VERSIONS, Schemas, find_crds

FAULTS: Final[dict[str, dict[str, Any]]] = yaml.safe_load(Path(__file__).with_name("planted_faults.yaml").read_text())
_SHORT: Final = {"(pod)": "spec.template.spec", "(container)": "spec.template.spec.containers.0"}


@pytest.fixture(scope="module")
def prod() -> Rendered:
    """The production overlay; tests that need it are skipped where there is no kubectl."""
    try:
        kubectl = find_kubectl()
    except KubectlError as error:
        pytest.skip(str(error))
    return render(OVERLAYS / "prod", kubectl)


def plant(rendered: Rendered, fault: dict[str, Any]) -> Rendered:
    """Return a copy of an overlay with a fault in it."""
    documents: Any = copy.deepcopy(rendered.documents)
    [at] = [each for each in documents if called(each) == fault["in"]]
    if "at" not in fault:
        return Rendered("prod", [each for each in documents if each is not at])
    path = fault["at"]
    for short, long in _SHORT.items():
        path = path.replace(short, long)
    *way, last = path.split(".")
    for step in way:
        at = at[position(at, step)]
    if last == "+":
        at.append(fault["put"])
    elif "put" in fault:
        at[last] = fault["put"]
    else:
        del at[position(at, last)]
    return Rendered("prod", documents)


def position(at: Any, step: str) -> str | int:
    """Return the key or index that a step of a path means; items of lists are known by their names, too."""
    if isinstance(at, list):
        return int(step) if step.isdigit() else [each.get("name") for each in at].index(step)
    return step


def said(rendered: Rendered, rule: str) -> list[Finding]:
    check = Schemas(VERSIONS[:1], find_crds()).check if rule == SCHEMA_RULE else CHECKS[rule]
    return [Finding(rendered.overlay, rule, each) for each in check(rendered)]


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(prod: Rendered, name: str) -> None:
    fault = FAULTS[name]
    if fault["in"].startswith("PodMonitor") and fault["rule"] == SCHEMA_RULE and find_crds() is None:
        pytest.skip("the definitions of custom resources are not there; set EVALFLEET_DATA_DIR")
    found = said(plant(prod, fault), fault["rule"])
    about = [each for each in found if each.problem.resource == fault.get("of", fault["in"])]
    assert any(fault["says"] in each.problem.text for each in about), [str(each) for each in found]


@pytest.mark.parametrize("rule", [SCHEMA_RULE, *CHECKS])
def test_each_rule_has_a_planted_fault_and_nothing_against_production(prod: Rendered, rule: str) -> None:
    assert rule in {each["rule"] for each in FAULTS.values()}
    assert not said(prod, rule)


@pytest.mark.usefixtures("prod")
def test_whoever_misspells_an_overlay_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["staging"]) == 2
    assert "there is no overlay staging" in capsys.readouterr().err


def test_the_rules_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rules"]) == 0
    listed = capsys.readouterr().out
    assert all(rule in listed for rule in CHECKS)
