"""Writes what an image consists of as CycloneDX 1.6: Python distributions, and the Debian packages below them.

``python -m deploy.docker.sbom FILE IMAGE`` writes it of what the Python that runs it can import, and of its system.
"""

import json
import os
import platform
import sys
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, Final

_NAMESPACE: Final = uuid.UUID("5f0e0a4c-6a43-4a0f-9e7c-5b7b8f0c8f11")
_DEBIAN: Final = "debian-12"
_BUNDLED: Final = {"nvidia-pytriton": {"0.7.0": "2.51.0"}}
"""Versions of the Triton Inference Server in wheels that hold one, by the wheel's version."""
_TRITON_VERSION: Final = Path("/opt/tritonserver/TRITON_VERSION")
"""Where NVIDIA's images say theirs."""


def write_sbom(
    file: Path, image: str, site_packages: Sequence[Path], system_packages: Path, *, system: str = _DEBIAN
) -> None:
    """Write the list; the same contents always give the same bytes.

    Args:
        file: receives it.
        image: name after ``evalfleet/``.
        site_packages: folders where Python distributions are installed; the first that has one counts.
        system_packages: dpkg's ``status``, or a folder of such files; what it lacks is not listed.
        system: whose packages these are, and of which version.

    Raises:
        LookupError: a wheel holds a Triton of a version that is not known here.
    """
    components = [*_python(site_packages), *_triton(site_packages), *_system(system_packages, system)]
    identity = json.dumps([image, components], sort_keys=True)
    built_at = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), UTC)
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, identity)}",
        "version": 1,
        "metadata": {
            "timestamp": built_at.isoformat().replace("+00:00", "Z"),
            "component": {"type": "container", "bom-ref": f"evalfleet/{image}", "name": f"evalfleet/{image}"},
        },
        "components": components,
    }
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _python(site_packages: Sequence[Path]) -> Iterator[dict[str, Any]]:
    first: dict[str, Distribution] = {}
    for each in distributions(path=[str(folder) for folder in site_packages]):
        first.setdefault(each.name.lower(), each)
    for _, each in sorted(first.items()):
        purl = f"pkg:pypi/{each.name.lower().replace('_', '-')}@{each.version}"
        yield _component(each.name, each.version, purl, _licence(each))


def _triton(site_packages: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Triton itself, which is no package of its own: scanners look for it by this name."""
    versions = [_TRITON_VERSION.read_text(encoding="utf-8").strip()] if _TRITON_VERSION.is_file() else []
    for each in distributions(path=[str(folder) for folder in site_packages]):
        if (known := _BUNDLED.get(each.name.lower())) is not None:
            if each.version not in known:
                raise LookupError(f"which Triton is in {each.name} {each.version}? Say so in {Path(__file__).name}")
            versions.append(known[each.version])
    for version in dict.fromkeys(versions):
        component = _component("tritonserver", version, f"pkg:generic/tritonserver@{version}", "BSD-3-Clause")
        yield {**component, "cpe": f"cpe:2.3:a:nvidia:triton_inference_server:{version}:*:*:*:*:*:*:*"}


def _licence(distribution: Distribution) -> str:
    """Return the SPDX expression that a distribution states; empty where it states none, or a text of its own."""
    stated: list[str] = distribution.metadata.get_all("License-Expression") or []
    return stated[0] if stated else ""


def _system(status: Path, system: str) -> Iterator[dict[str, Any]]:
    files = sorted(status.glob("*")) if status.is_dir() else [status]
    stanzas = (stanza for file in files for stanza in file.read_text(encoding="utf-8").split("\n\n"))
    for stanza in filter(str.strip, stanzas):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
        name, version = fields["Package"], fields["Version"]
        vendor = system.partition("-")[0]
        purl = f"pkg:deb/{vendor}/{name}@{version}?arch={fields['Architecture']}&distro={system}"
        yield _component(name, version, purl, "")


def _component(name: str, version: str, purl: str, licence: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl.replace("+", "%2B"),
    }
    if licence:
        described["licenses"] = [{"expression": licence}]
    return described


if __name__ == "__main__":
    _release = platform.freedesktop_os_release()
    write_sbom(
        Path(sys.argv[1]),
        sys.argv[2],
        [Path(folder) for folder in sys.path if Path(folder).is_dir()],
        Path("/var/lib/dpkg/status"),
        system=f"{_release['ID']}-{_release['VERSION_ID']}",
    )
