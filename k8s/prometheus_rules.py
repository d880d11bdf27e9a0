"""Puts the rules of deploy/prometheus into a PrometheusRule: ``python -m k8s.prometheus_rules``."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

K8S: Final = Path(__file__).resolve().parent
SOURCES: Final = K8S.parent / "deploy" / "prometheus"
MANIFEST: Final = K8S / "components" / "prometheus" / "rules.yaml"
_LINK: Final = re.compile(r"(?<=runbook_url: )[^#\s]+(?=#)")
"""Where an alert's runbook is, without its page there."""
_HEAD: Final = """\
# The rules of deploy/prometheus; `python -m k8s.prometheus_rules` writes this file.
"""


def rule_groups(folder: Path = SOURCES) -> list[Mapping[str, Any]]:
    """Return the groups of all rule files in a folder, in the order of the files' names; others have none."""
    files = [yaml.safe_load(each.read_text(encoding="utf-8")) for each in sorted(folder.glob("*.yaml"))]
    return [group for each in files for group in each.get("groups", ())]


def set_runbook(url: str, folder: Path = SOURCES) -> None:
    """Let all alerts of a folder, and their tests, link to the runbook there.

    Raises:
        ValueError: it is no absolute https URL, or has a fragment, which each alert adds.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.netloc or "#" in url or re.search(r"\s", url):
        raise ValueError(f"{url!r} is not of the form https://HOST/PATH")
    for file in folder.rglob("alerts*.yaml"):
        file.write_text(_LINK.sub(lambda _: url, file.read_text(encoding="utf-8")), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the manifest."""
    parser = argparse.ArgumentParser(prog="python -m k8s.prometheus_rules", description="Write the PrometheusRule.")
    parser.add_argument("--runbook", metavar="URL", help="first let all alerts link to the runbook there")
    options = parser.parse_args(arguments)
    if options.runbook is not None:
        try:
            set_runbook(options.runbook)
        except ValueError as error:
            parser.error(str(error))
    manifest = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "evalfleet", "labels": {"app.kubernetes.io/part-of": "evalfleet"}},
        "spec": {"groups": rule_groups()},
    }
    text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=120)
    MANIFEST.write_text(_HEAD + text, encoding="utf-8")


if __name__ == "__main__":
    main()
