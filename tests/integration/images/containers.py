"""Containers of the images that `make images` has built, run by podman as Kubernetes would run them."""

import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.docker.image_contents import release
from services.runtime.health_probe import probe

REPOSITORY = Path(__file__).resolve().parents[3]
USER = 64_900
_START_SECONDS = 300.0
_POLL_SECONDS = 0.2
# Resource limits are set because older machines' control groups don't let podman leave them alone.
_PODMAN = ("podman", "--runtime", "runc")
_CONFINED = (
    *("--network=host", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    *(f"--user={USER}:{USER}", "--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096"),
)


def tag(name: str) -> str:
    return f"evalfleet/{name}:{release(REPOSITORY)}"


def is_there(name: str) -> bool:
    return podman("image", "exists", f"localhost/{tag(name)}", check=False).returncode == 0


def is_of_these_sources(name: str) -> bool:
    """Whether an image was built from what its Dockerfile would copy now."""
    revision = inspect(name)["Labels"]["org.opencontainers.image.revision"].removesuffix("-changed")
    copied = ("clients/python", "deploy/docker", "pyproject.toml", "requirements", "services")
    command = ("git", "-C", str(REPOSITORY), "diff", "--quiet", revision, "--", *copied)
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def can_run_containers() -> bool:
    return all(map(shutil.which, ("podman", "runc")))


def podman(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run((*_PODMAN, *arguments), capture_output=True, text=True, check=check)


def inspect(name: str) -> Any:
    [found] = json.loads(podman("image", "inspect", f"localhost/{tag(name)}").stdout)
    return found


def run_in(name: str, *command: str, mounts: Sequence[str] = ()) -> str:
    """Run a command in a container of an image, and return what it prints.

    Raises:
        AssertionError: it failed; holds what it said.
    """
    volumes = [f"--volume={each}" for each in mounts]
    done = podman("run", "--rm", *_CONFINED, "--tmpfs=/tmp", *volumes, f"localhost/{tag(name)}", *command, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass
class Containers:
    """Containers that run side by side; those that are left are ended with the block.

    Attributes:
        folder: of their state, one folder each.
        mounts: what all of them see, as podman's ``--volume``.
    """

    folder: Path
    mounts: Sequence[str] = ()
    _names: dict[str, str] = field(default_factory=dict)
    _end: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> "Containers":
        return self

    def __exit__(self, *raised: object) -> None:
        self._end.close()

    def start(self, name: str, environment: Mapping[str, str], *options: str) -> None:
        """Start a container of an image; its first process is what the image says."""
        state = self.folder / name
        state.mkdir()
        shutil.chown(state, USER, USER)
        container = f"evalfleet-test-{name}-{uuid.uuid4().hex[:8]}"
        told = [f"--env={variable}={value}" for variable, value in environment.items()]
        volumes = [f"--volume={each}" for each in (f"{state}:/var/lib/evalfleet", *self.mounts)]
        self._end.callback(podman, "rm", "--force", "--time=0", container, check=False)
        podman(
            *("run", "--detach", f"--name={container}", *_CONFINED, "--tmpfs=/tmp", *told, *volumes, *options),
            f"localhost/{tag(name)}",
        )
        self._names[name] = container

    def wait_until_serving(self, name: str, target: str) -> None:
        """Wait until a container serves.

        Raises:
            AssertionError: it has ended; holds its log.
            TimeoutError: it takes too long.
        """
        give_up_at = time.monotonic() + _START_SECONDS
        while problem := probe(target):
            state = podman("inspect", "--format={{.State.Status}}", self._names[name]).stdout.strip()
            assert state == "running", self.log(name)
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"{name}: {problem}\n{self.log(name)}")
            time.sleep(_POLL_SECONDS)

    def log(self, name: str) -> str:
        """Return what a container has said."""
        said = podman("logs", self._names[name], check=False)
        return said.stdout + said.stderr

    def stop(self, name: str) -> int:
        """Stop a container as Kubernetes does, by SIGTERM, and return its exit code."""
        podman("stop", "--time=60", self._names[name])
        return int(podman("inspect", "--format={{.State.ExitCode}}", self._names[name]).stdout)
