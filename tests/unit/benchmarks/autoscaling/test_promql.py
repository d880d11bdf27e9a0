"""Scaling queries compute here what Prometheus computes, and what is not known is refused."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from benchmarks.autoscaling.promql import Labels, Matcher, Query, Vector

SERIES = {
    'work{job="generation",state="queued"}': 7.0,
    'work{job="generation",state="running"}': 64.0,
    'work{job="safety",state="running"}': 3.0,
    'up{instance="a"}': 1.0,
    'up{instance="b"}': 0.0,
    "wait": 180.0,
}
CASES = {
    "sum(work)": 74.0,
    'sum(work{job="generation"})': 71.0,
    'sum(work{job=~"generation|safety",state!="queued"})': 67.0,
    'max(work{job!~"gen.*"}) - min(up) * 2': 3.0,
    "avg(up) + count(up) / 4": 1.0,
    "2 + 3 * 4 - (1 + 1)": 12.0,
    "(sum(up) or vector(0)) * clamp_max(max(wait) / 120, 2)": 1.5,
    "(sum(absent_series) or vector(0)) * clamp_min(max(wait) / 120, 2)": 0.0,
    'sum(work{job="nobody"})': None,
    "sum(up) * max(absent_series)": None,
    "1 / sum(up)": 1.0,
}


class Given:
    def select(self, name: str, matches: Matcher) -> Vector:
        found: dict[Labels, float] = {}
        for text, value in SERIES.items():
            named, _, labels = text.partition("{")
            pairs = dict(each.split("=") for each in labels.rstrip("}").split(",")) if labels else {}
            read = {label: quoted.strip('"') for label, quoted in pairs.items()}
            if named == name and matches(read):
                found[frozenset(read.items())] = value
        return found


@pytest.mark.parametrize("text", CASES)
def test_a_query_has_its_value(text: str) -> None:
    assert Query.parse(text).value(Given()) == CASES[text]


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: apt-get install prometheus) computes them"
)
def test_prometheus_computes_the_same(tmp_path: Path) -> None:
    expected = [
        {"expr": text, "eval_time": "1m", "exp_samples": [] if value is None else [{"labels": "{}", "value": value}]}
        for text, value in CASES.items()
    ]
    series = [{"series": text, "values": f"{value}x5"} for text, value in SERIES.items()]
    content = {"rule_files": [], "tests": [{"interval": "15s", "input_series": series, "promql_expr_test": expected}]}
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump(content))
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "text",
    ["rate(work[1m])", "sum by (job) (work)", "sum(work", "work > 1", "1 +", 'sum(work{job"x"})', "sum(work))", "§"],
)
def test_what_is_not_known_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Query.parse(text)


def test_several_values_are_no_value_to_scale_on() -> None:
    assert Query.parse('sum(work{job="generation"})').names == {"work"}
    with pytest.raises(ValueError, match="3 values"):
        Query.parse("work").value(Given())
