"""Puts the rules of deploy/prometheus into a PrometheusRule: ``python -m k8s.prometheus_rules``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

K8S: Final = Path(__file__).resolve().parent
SOURCES: Final = K8S.parent / "deploy" / "prometheus"
MANIFEST: Final = K8S / "components" / "prometheus" / "rules.yaml"
_HEAD: Final = """\
# The rules of deploy/prometheus; `python -m k8s.prometheus_rules` writes this file.
"""


def rule_groups(folder: Path = SOURCES) -> list[Mapping[str, Any]]:
    """Return the groups of all rule files in a folder, in the order of the files' names; others have none."""
    files = [yaml.safe_load(each.read_text(encoding="utf-8")) for each in sorted(folder.glob("*.yaml"))]
    return [group for each in files for group in each.get("groups", ())]


def main() -> None:
    """Write the manifest."""
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
