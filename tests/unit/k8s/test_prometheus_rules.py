"""Where alerts link to, which an operator sets."""

import shutil
from pathlib import Path

import pytest

from k8s.prometheus_rules import SOURCES, main, rule_groups, set_runbook


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SOURCES, tmp_path / "prometheus"))


def test_all_alerts_and_their_tests_link_to_the_runbook_that_is_told(copied: Path) -> None:
    set_runbook("https://git.example.com/ops/runbook.md", copied)
    alerts = [rule for group in rule_groups(copied) for rule in group["rules"] if "alert" in rule]
    assert len(alerts) > 10
    for each in alerts:
        wanted = f"https://git.example.com/ops/runbook.md#{each['alert'].lower()}"
        assert each["annotations"]["runbook_url"] == wanted
    assert "evalfleet.example.org" not in (copied / "tests" / "alerts_test.yaml").read_text()


def test_to_set_it_again_changes_nothing_else(copied: Path) -> None:
    before = (copied / "alerts.yaml").read_text()
    [link] = {line.split()[1].partition("#")[0] for line in before.splitlines() if "runbook_url:" in line}
    set_runbook("https://git.example.com/ops/runbook.md", copied)
    set_runbook(link, copied)
    assert (copied / "alerts.yaml").read_text() == before


@pytest.mark.parametrize(
    "told", ["docs/runbook.md", "http://wiki/runbook", "https:///x", "https://wiki/x#y", "", "https://a b"]
)
def test_links_that_lead_nowhere_are_refused(told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--runbook", told])
    assert "is not of the form https://HOST/PATH" in capsys.readouterr().err
