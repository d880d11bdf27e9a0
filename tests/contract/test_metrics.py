"""docs/metrics.md lists every series that the code registers, and no label has values without number."""

import ast
from pathlib import Path

from tests.contract.metrics_inventory import BEGIN, LABELS, MAKERS, PAGE, series_of, tables

ROOT = Path(__file__).parents[2]
METRIC_CLASSES = {"Counter", "Gauge", "Histogram", "Summary", "Info", "Enum", "ProcessCollector"}


def makes_metrics(path: Path) -> bool:
    """Whether a module makes metrics: it imports one of Prometheus' classes and calls it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prometheus_client")
        for alias in node.names
    }
    made = {name for name in imported if name in METRIC_CLASSES or name.endswith("MetricFamily")}
    return any(
        isinstance(node, ast.Name) and node.id in made
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        for node in ast.walk(call.func)
    )


def test_every_module_that_makes_metrics_is_in_the_inventory() -> None:
    found = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "services").rglob("*.py")
        if "prometheus_client" in path.read_text(encoding="utf-8") and makes_metrics(path)
    }
    assert found == {module for makers in MAKERS.values() for module, _ in makers}


def test_the_page_lists_what_the_code_registers() -> None:
    _, begin, listed = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    assert begin
    assert listed.strip() == tables().strip(), "run `python -m tests.contract.metrics_inventory`"


def test_no_label_has_values_without_number() -> None:
    used = {
        label for makers in MAKERS.values() for _, make in makers for each in series_of(make) for label in each.labels
    }
    assert used - LABELS.keys() == set()
    assert LABELS.keys() - used == set()
    assert not used & {
        "run_id",
        "item",
        "item_id",
        "request_id",
        "prompt",
        "task",
        "user",
        "url",
        "path",
        "trace_id",
    }


def test_names_say_whose_they_are_and_units() -> None:
    for makers in MAKERS.values():
        for _, make in makers:
            for each in series_of(make):
                assert each.name.startswith(("evalfleet_", "grpc_server_", "process_")), each.name
                assert each.meaning.endswith(".") or each.name.startswith("process_"), each.name
