"""Builds the images of a fleet: ``python -m deploy.docker.build_images [NAME ...]``, also ``make images``.

Takes docker where its daemon answers, else buildah. Where no image registry can be reached, a stand-in for Debian's
image is made out of Debian's packages by a tool that lies beside the repository, if it is there.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.docker.image_contents import IMAGES, ON_DEMAND, PREFIX, Image, image, release

REPOSITORY: Final = Path(__file__).resolve().parents[2]
BASE: Final = "docker.io/library/debian:bookworm-slim"
CPU_TORCH: Final = "https://download.pytorch.org/whl/cpu"
STAND_IN_TOOL: Final = REPOSITORY.parent / "shared/tools/base_image.sh"
SBOM_FOLDER: Final = REPOSITORY / "build/images"
_SBOM: Final = "opt/evalfleet/sbom.cdx.json"
_HOST_FILES: Final = ("/etc/ssl/certs", "/etc/resolv.conf")
_PIP_SETTINGS: Final = ("index-url", "extra-index-url", "find-links", "cert", "timeout")


class CannotBuildError(Exception):
    """Something that a build needs is missing; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a build comes from.

    Attributes:
        base: the image below all others.
        version: of the release.
        revision: Git's commit.
        epoch: time of the commit, in seconds; all files get it, so that the same sources make the same image.
        torch_index: where the CPU build of torch is; empty: where pip looks anyway.
    """

    base: str
    version: str
    revision: str
    epoch: str
    torch_index: str

    def arguments(self) -> list[str]:
        """Return the build's arguments."""
        told = {
            "BASE": self.base,
            "VERSION": self.version,
            "REVISION": self.revision,
            "SOURCE_DATE_EPOCH": self.epoch,
            "TORCH_INDEX": self.torch_index,
        }
        return [f"--build-arg={name}={value}" for name, value in told.items()]


def main() -> int:
    """Build what is named; 0 if all of it was built."""
    parser = argparse.ArgumentParser(prog="python -m deploy.docker.build_images", description=__doc__)
    default, more = (" ".join(each.name for each in images) for images in (IMAGES, ON_DEMAND))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {default}; built where named: {more}")
    parser.add_argument("--base", help=f"image below those that are named, with a digest for builds to repeat ({BASE})")
    options = parser.parse_args()
    try:
        chosen = [image(name) for name in options.names] or list(IMAGES)
    except KeyError as error:
        parser.error(f"there is no image {error}; known: {', '.join(each.name for each in (*IMAGES, *ON_DEMAND))}")
    try:
        build = build_with_docker if _docker_answers() else build_with_buildah
        for base in dict.fromkeys(options.base or each.base or BASE for each in chosen):
            build([each for each in chosen if (options.base or each.base or BASE) == base], base)
    except CannotBuildError as error:
        print(f"images cannot be built here: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"{error.cmd[0]} {error.cmd[1]} ended with code {error.returncode}", file=sys.stderr)
        return 1
    return 0


def build_with_docker(chosen: Sequence[Image], base: str) -> None:
    """Build with docker, which fetches the base image."""
    origin = find_origin(base, torch_index=CPU_TORCH)
    for each in chosen:
        _run("docker", "build", *common_arguments(each, origin))
        container = _run("docker", "create", tag(each, origin), quiet=True).strip()
        try:
            SBOM_FOLDER.mkdir(parents=True, exist_ok=True)
            _run("docker", "cp", f"{container}:/{_SBOM}", str(SBOM_FOLDER / f"{each.name}.cdx.json"), quiet=True)
        finally:
            _run("docker", "rm", container, quiet=True)
        print(tag(each, origin), flush=True)


def build_with_buildah(chosen: Sequence[Image], base: str) -> None:
    """Build with buildah.

    Raises:
        CannotBuildError: buildah or the base image is missing.
    """
    if shutil.which("buildah") is None:
        raise CannotBuildError("no docker daemon answers and there is no buildah: apt-get install buildah runc podman")
    is_fetched = _succeeds("buildah", "pull", "--quiet", "--policy=always", base)
    if not is_fetched:
        _require_local_base(base)
    origin = find_origin(base, torch_index=CPU_TORCH if is_fetched else "")
    with pip_settings() as settings:
        for each in chosen:
            _run(*buildah_command(each, origin, settings))
            _keep_sbom(each, origin)
            print(tag(each, origin), flush=True)


def buildah_command(chosen: Image, origin: Origin, mounts: Sequence[str]) -> list[str]:
    """Return buildah's command. Its RUN steps use this machine's network and settings, which no layer keeps."""
    isolation = ("--isolation=oci", "--runtime=runc", "--network=host", "--pull=never", "--layers")
    volumes = [f"--volume={each}:{each}:ro" for each in _HOST_FILES]
    volumes += [f"--volume={each}:ro" for each in mounts]
    times = (f"--timestamp={origin.epoch}",)
    return ["buildah", "build", *isolation, *times, *volumes, *common_arguments(chosen, origin)]


def common_arguments(chosen: Image, origin: Origin) -> list[str]:
    """Return what every builder is told."""
    file = ("--file", str(REPOSITORY / chosen.dockerfile), "--target", chosen.name)
    return [*origin.arguments(), *file, "--tag", tag(chosen, origin), str(REPOSITORY)]


def tag(chosen: Image, origin: Origin) -> str:
    """Return the image's name and version."""
    return f"{PREFIX}{chosen.name}:{origin.version}"


def find_origin(base: str, *, torch_index: str) -> Origin:
    """Ask Git where the sources come from; what is not committed counts as from the beginning of time."""
    revision, epoch = _git("rev-parse", "HEAD") or "unknown", _git("log", "-1", "--format=%ct") or "0"
    if _git("status", "--porcelain"):
        revision += "-changed"
    return Origin(base, release(REPOSITORY), revision, os.environ.get("SOURCE_DATE_EPOCH", epoch), torch_index)


@contextmanager
def pip_settings() -> Iterator[list[str]]:
    """Yield what to mount so that pip inside finds packages where pip does here: its settings, and local folders."""
    told = subprocess.run((sys.executable, "-m", "pip", "config", "list"), capture_output=True, text=True, check=False)
    settings = parse_pip_settings(told.stdout)
    paths = (Path(word.removeprefix("file://")) for value in settings.values() for word in value.split())
    # The pages of an index are in `simple`, and the files that they point to beside it.
    folders = {path.parent if path.name == "simple" else path for path in paths if path.is_absolute() and path.is_dir()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pip.conf"
        file.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
        yield [f"{file}:/etc/pip.conf", *(f"{each}:{each}" for each in sorted(folders))]


def parse_pip_settings(listed: str) -> dict[str, str]:
    """Return the settings of ``pip config list`` that say where packages are; what comes later wins."""
    settings: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        setting = name.rpartition(".")[2]
        if setting in _PIP_SETTINGS:
            settings[setting] = value.strip("'\"").replace("\\n", " ")
    return settings


def _require_local_base(base: str) -> None:
    if _succeeds("buildah", "inspect", "--type=image", base):
        print(f"no registry answers: {base} is the image of this machine's store", file=sys.stderr)
        return
    if not STAND_IN_TOOL.is_file():
        raise CannotBuildError(f"{base} cannot be fetched from its registry, and is not in buildah's store")
    _run("bash", str(STAND_IN_TOOL), base)


def _keep_sbom(chosen: Image, origin: Origin) -> None:
    container = _run("buildah", "from", "--pull-never", tag(chosen, origin), quiet=True).strip()
    try:
        mounted = Path(_run("buildah", "mount", container, quiet=True).strip())
        SBOM_FOLDER.mkdir(parents=True, exist_ok=True)
        document = json.loads((mounted / _SBOM).read_text(encoding="utf-8"))
        (SBOM_FOLDER / f"{chosen.name}.cdx.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    finally:
        _run("buildah", "rm", container, quiet=True)


def _docker_answers() -> bool:
    return shutil.which("docker") is not None and _succeeds("docker", "info")


def _git(*arguments: str) -> str:
    command = ("git", "-C", str(REPOSITORY), *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(*command: str, quiet: bool = False) -> str:
    """Run a command; its output is returned if it is quiet, else shown."""
    done = subprocess.run(command, stdout=subprocess.PIPE if quiet else None, text=True, check=True)
    return done.stdout or ""


if __name__ == "__main__":
    sys.exit(main())
