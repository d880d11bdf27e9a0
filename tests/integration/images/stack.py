"""``deploy/compose.yaml`` as podman-compose makes it: its networks, volumes and containers.

Containers are started and their health checks run here: podman has systemd run those, where there is one, and
podman-compose waits for them from podman 4.6 on.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.integration.images.containers import REPOSITORY
from tests.integration.images.stand_ins.build import FOLDER as STAND_INS

_START_SECONDS = 300.0
_POLL_SECONDS = 0.5
# Containers find one another by name in networks of this kind alone. Limits: see containers.py.
_ENGINE = """\
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[network]
network_backend = "netavark"
[engine]
runtime = "runc"
"""


def find_podman_compose() -> str | None:
    return shutil.which("podman-compose", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def has_names() -> bool:
    """Whether podman can give containers networks in which they find one another."""
    return all((Path("/usr/lib/podman") / each).exists() for each in ("netavark", "aardvark-dns"))


@dataclass(frozen=True)
class Stack:
    """The fleet of the compose file.

    Attributes:
        folder: of its settings.
        project: before the names of all that it makes.
        settings: what the compose file asks for.
        ports: of this machine, in place of those that the file publishes on loopback: by service.
    """

    folder: Path
    project: str
    settings: Mapping[str, str]
    ports: Mapping[str, int]

    def up(self) -> None:
        """Make what is missing and start all of it, each service when those that it depends on are as it wants them.

        Raises:
            AssertionError: a service has ended or takes too long; holds its log.
        """
        self._compose("up", "--no-start")
        services: dict[str, dict[str, Any]] = yaml.safe_load(self._compose("config"))["services"]
        services = {name: each for name, each in services.items() if not each.get("profiles")}
        started: set[str] = set()
        ready: set[str] = set()
        give_up_at = time.monotonic() + _START_SECONDS
        while ready != services.keys():
            for name in services.keys() - started:
                if set(services[name].get("depends_on", ())) <= ready:
                    self.podman("start", self._container(name))
                    started.add(name)
            ready |= {name for name in started - ready if self._is_ready(name, services[name])}
            assert time.monotonic() < give_up_at, "\n".join(map(self.log, started - ready))
            time.sleep(_POLL_SECONDS)

    def down(self) -> None:
        """Stop all of it and take it away, but for what it keeps."""
        self._compose("down")

    def remove(self) -> None:
        """Take all of it away."""
        self._compose("down", "--volumes")

    def run_in(self, service: str, *command: str) -> str:
        """Run a command in a service's container, and return what it prints."""
        return self.podman("exec", self._container(service), *command).stdout

    def log(self, service: str) -> str:
        """Return what a service has said last."""
        said = self.podman("logs", "--tail=40", self._container(service), check=False)
        return f"{service}:\n{said.stdout}{said.stderr}"

    def podman(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self._run("podman", *arguments, check=check)

    def _is_ready(self, name: str, service: Mapping[str, Any]) -> bool:
        """Whether a service is as others wait for it: it has done its work, or is healthy, or runs."""
        state, code = self.podman(
            "inspect", "--format={{.State.Status}} {{.State.ExitCode}}", self._container(name)
        ).stdout.split()
        if service["restart"] == "no":
            assert state == "running" or code == "0", self.log(name)
            return state == "exited"
        if "healthcheck" in service:
            return self.podman("healthcheck", "run", self._container(name), check=False).returncode == 0
        return state == "running"

    def _container(self, service: str) -> str:
        return f"{self.project}_{service}_1"

    def _compose(self, *arguments: str) -> str:
        told = self.folder / "settings.env"
        told.write_text("".join(f"{name}={value}\n" for name, value in self.settings.items()))
        given = REPOSITORY / "deploy/compose.yaml"
        free = self.folder / "ports.yaml"
        free.write_text(f"services:\n{''.join(self._free_ports(given))}")
        return self._run(
            find_podman_compose() or "podman-compose",
            *(f"--project-name={self.project}", "--in-pod=false", f"--env-file={told}"),
            *(f"--file={each}" for each in (given, STAND_INS / "compose.yaml", free)),
            *arguments,
        ).stdout

    def _free_ports(self, file: Path) -> Iterator[str]:
        for name, service in yaml.safe_load(file.read_text())["services"].items():
            if name in self.ports:
                [published] = service["ports"]
                host, _, inside = published.split(":")
                yield f"  {name}: {{ports: !override ['{host}:{self.ports[name]}:{inside}']}}\n"

    def _run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        engine = self.folder / "containers.conf"
        engine.write_text(_ENGINE)
        environment = {**os.environ, "CONTAINERS_CONF": str(engine)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0 or not check, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done
