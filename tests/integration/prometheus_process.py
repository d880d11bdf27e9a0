"""Prometheus with our rules, as a process that scrapes what a test runs."""

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from services.runtime.free_ports import free_port
from tests.contract.promql import RULES
from tests.patience import LONGEST_WAIT_SECONDS, wait_until


class Prometheus:
    """A Prometheus that scrapes a fleet."""

    def __init__(self, address: str) -> None:
        self._address = address

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Return what a query finds."""
        found: list[dict[str, Any]] = self._get("query", query=query)["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Return all rules with what became of them."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def exported(self) -> dict[str, set[str]]:
        """Return the names of the metrics of each job, those without a sample so far included."""
        found: dict[str, set[str]] = {}
        for each in self._get("targets/metadata"):
            name = each["metric"]
            if each["type"] == "counter" and not name.endswith("_total"):
                name += "_total"
            found.setdefault(each["target"]["job"], set()).add(name)
        return found

    def _get(self, path: str, **parameters: str) -> Any:
        address = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=LONGEST_WAIT_SECONDS) as answer:
            return json.load(answer)["data"]

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            self._get("query", query="1")
        except OSError:
            return False
        return True


@contextmanager
def scraping(targets: Mapping[str, Sequence[str]], folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus over the metrics of ``targets``, by job; each has been scraped several times."""
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(each) for each in RULES],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(each)}]} for job, each in targets.items()
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    count = sum(map(len, targets.values()))
    try:
        prometheus = Prometheus(address)
        wait_until(prometheus.is_ready, (folder / "prometheus.log").read_text())
        wait_until(lambda: len(prometheus.ask("sum_over_time(up[1m]) > 2")) == count, "scrapes of every part")
        yield prometheus
    finally:
        process.terminate()
        process.wait(LONGEST_WAIT_SECONDS)
