"""The Dockerfiles, read without building them: stages, sources, users, labels."""

import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.docker.image_contents import IMAGES, ON_DEMAND

REPOSITORY = Path(__file__).resolve().parents[3]
DOCKERFILES = sorted((REPOSITORY / "deploy/docker").glob("*.Dockerfile"))
LABELS = ("title", "description", "vendor", "licenses", "version", "revision", "base.name")


@dataclass(frozen=True)
class Step:
    instruction: str
    arguments: str


@dataclass(frozen=True)
class Stage:
    name: str
    base: str
    steps: tuple[Step, ...]

    def last(self, instruction: str) -> str:
        found = [each.arguments for each in self.steps if each.instruction == instruction]
        return found[-1] if found else ""


def read_stages(file: Path) -> dict[str, Stage]:
    """Return a Dockerfile's stages by name; each has the steps of the stages below it, too."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    stages: dict[str, Stage] = {}
    name, base = "", ""
    steps: list[Step] = []
    for line in filter(str.strip, text.splitlines()):
        instruction, arguments = line.split(maxsplit=1)
        if instruction == "FROM":
            if name:
                stages[name] = Stage(name, base, tuple(steps))
            base, _, name = (each.strip() for each in arguments.partition(" AS "))
            steps = list(stages[base].steps) if base in stages else []
        elif name:
            steps.append(Step(instruction, " ".join(arguments.split())))
    stages[name] = Stage(name, base, tuple(steps))
    return stages


def is_ignored(path: str) -> bool:
    """Whether .dockerignore, whose first line leaves out everything, keeps a path from the build."""
    lines = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] not in "#"]
    assert lines[0] == "*"
    kept = [line[1:] for line in lines if line.startswith("!")]
    left_out = [line for line in lines[1:] if not line.startswith("!")]
    is_kept = any(path == each or path.startswith(f"{each}/") or each.startswith(f"{path}/") for each in kept)
    return not is_kept or any(fnmatch.fnmatch(f"/{path}", f"/{each}") for each in left_out)


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    return {name: stage for file in DOCKERFILES for name, stage in read_stages(file).items()}


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_what_is_copied_exists(file: Path) -> None:
    found = read_stages(file)
    for stage in found.values():
        for step in stage.steps:
            if step.instruction != "COPY":
                continue
            words = step.arguments.split()
            if words[0].startswith("--from="):
                assert words[0].removeprefix("--from=") in found, words
                continue
            for source in words[:-1]:
                assert (REPOSITORY / source).exists(), f"{file.name} copies {source}"
                assert not is_ignored(source), f".dockerignore keeps {source} from the build"


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_bases_are_said_once_and_exactly(file: Path) -> None:
    found = read_stages(file)
    assert {stage.base for stage in found.values()} - set(found) <= {"${BASE}", "scratch"}
    [base] = re.findall(r"^ARG BASE=(\S+)$", file.read_text(), flags=re.MULTILINE)
    image, _, tag = base.rpartition(":")
    assert image.count("/") >= 1
    assert tag not in ("", "latest")


@pytest.mark.parametrize("name", [each.name for each in (*IMAGES, *ON_DEMAND)])
def test_an_image_runs_its_service_as_nobody_special(stages: dict[str, Stage], name: str) -> None:
    stage = stages[name]
    assert stage.last("USER") == "64900:64900"
    modules = {each.name: each.module for each in (*IMAGES, *ON_DEMAND)}
    assert stage.last("CMD") == f'["python", "-m", "{modules[name]}"]'
    assert stage.last("ENTRYPOINT") in ("", "[]")
    assert not stage.last("HEALTHCHECK")
    said = " ".join(step.arguments for step in stage.steps if step.instruction == "LABEL")
    for label in LABELS:
        assert f"org.opencontainers.image.{label}=" in said
    assert f'image.title="evalfleet/{name}"' in said
    assert 'dev.evalfleet.sbom.path="/opt/evalfleet/sbom.cdx.json"' in said


@pytest.mark.parametrize("name", [each.name for each in IMAGES if each.lean])
def test_a_lean_image_stands_on_nothing(stages: dict[str, Stage], name: str) -> None:
    assert stages[stages[name].base].base == "scratch"
    assert not stages[name].last("RUN")


def test_only_apt_needs_a_shell(stages: dict[str, Stage]) -> None:
    for stage in stages.values():
        for step in stage.steps:
            if step.instruction == "RUN" and not step.arguments.startswith("["):
                assert step.arguments.startswith("apt-get update && apt-get install --yes --no-install-recommends ")
                assert step.arguments.endswith("&& rm -rf /var/lib/apt/lists/*")
