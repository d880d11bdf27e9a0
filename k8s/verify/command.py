"""The command line of ``make verify-k8s``."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from k8s.verify import (
    availability,
    environment,
    jobs,
    labels,
    names,
    network,
    outside,
    pods,
    programs,
    references,
    restricted,
    routes,
    scaling,
    storage,
    timeouts,
    trust,
    ways,
)
from k8s.verify.kubectl import OVERLAYS, KubectlError, find_kubectl, render
from k8s.verify.rendered import Check, Finding, Rendered
from k8s.verify.schemas import VERSIONS, Schemas, find_crds

CHECKS: Final[Mapping[str, Check]] = {
    "disruption-budgets": availability.check_disruption_budgets,
    "folders": environment.check_folders,
    "grace": availability.check_grace,
    "hardened": restricted.check_hardened,
    "images": pods.check_images,
    "issuers": references.check_issuers,
    "jobs": jobs.check_jobs,
    "labels": labels.check_labels,
    "memory-volumes": pods.check_memory_volumes,
    "monitors": references.check_monitors,
    "names": names.check_names,
    "namespaces": references.check_namespaces,
    "network-policies": network.check_policies,
    "outside": outside.check_outside,
    "paths": pods.check_paths,
    "ports": trust.check_ports,
    "probes": pods.check_probes,
    "programs": programs.check_programs,
    "references": references.check_references,
    "replicas": availability.check_replicas,
    "resources": pods.check_resources,
    "restricted": restricted.check_restricted,
    "routes": routes.check_routes,
    "rules": references.check_rules,
    "scalers": scaling.check_scalers,
    "secrets": restricted.check_secrets,
    "services": references.check_services,
    "spread": availability.check_spread,
    "storage": storage.check_storage,
    "targets": environment.check_targets,
    "timeouts": timeouts.check_timeouts,
    "trust": trust.check_trust,
    "variables": environment.check_variables,
    "ways": ways.check_ways,
}
"""What schemas cannot say, by the name that findings give."""
SCHEMA_RULE: Final = "schemas"


def findings(rendered: Rendered, schemas: Schemas) -> list[Finding]:
    """Return everything that is wrong with an overlay; what does not fit its schema is not looked at further."""
    found = [Finding(rendered.overlay, SCHEMA_RULE, each) for each in schemas.check(rendered)]
    if found:
        return found
    return [Finding(rendered.overlay, rule, each) for rule, check in CHECKS.items() for each in check(rendered)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify overlays; 0: all is well, 1: there are findings, 2: nothing could be verified."""
    options = _parser().parse_args(arguments)
    if options.rules:
        print("\n".join(f"{name:20} {(check.__doc__ or '').splitlines()[0]}" for name, check in CHECKS.items()))
        return 0
    crds = find_crds()
    schemas = Schemas(crds=crds)
    if crds is None:
        print("the schemas of KEDA's and Prometheus' resources are not there: set EVALFLEET_DATA_DIR to their parent")
    names = options.overlays or sorted(each.name for each in OVERLAYS.iterdir() if each.is_dir())
    found: list[Finding] = []
    unchecked: set[str] = set()
    try:
        kubectl = find_kubectl()
        for name in names:
            rendered = render(_folder(name), kubectl)
            here = findings(rendered, schemas)
            found += here
            unchecked |= {each["kind"] for each in rendered.documents if not schemas.is_checked(each)}
            print(f"{name:12} {len(rendered.documents):4} resources  {len(here) or 'no'} findings")
    except KubectlError as error:
        print(f"verify-k8s: {error}", file=sys.stderr)
        return 2
    if unchecked:
        print(f"without a schema here: {', '.join(sorted(unchecked))}")
    for each in found:
        print(each, file=sys.stderr)
    return 1 if found else 0


def _folder(name: str) -> Path:
    folder = OVERLAYS / name
    if not folder.is_dir():
        raise KubectlError(f"there is no overlay {name}")
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m k8s.verify",
        description=f"Render overlays, validate them strictly against Kubernetes {VERSIONS[0]} to {VERSIONS[-1]} and "
        "the definitions of custom resources, and check what schemas cannot say.",
        epilog="exit codes: 0 all is well, 1 there are findings, 2 nothing could be verified",
    )
    parser.add_argument("overlays", nargs="*", metavar="OVERLAY", help="names in k8s/overlays; default: all")
    parser.add_argument("--rules", action="store_true", help="list what is checked beyond schemas, and end")
    return parser
