"""What goes into which image, and that all of it has an exact version."""

import re
import tomllib
from pathlib import Path

import pytest

from deploy.docker.image_contents import (
    EVERYWHERE,
    IMAGES,
    NOT_IN_IMAGES,
    PREFIX,
    SAFETY_WITH_NGRAMS,
    Image,
    image,
    pinned_without_requirements,
    third_party_requirements,
)

REPOSITORY = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
ALL = (*IMAGES, SAFETY_WITH_NGRAMS)


def distribution(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match
    return match[0].lower().replace("_", "-")


def test_requirements_are_those_of_the_extras_and_of_what_these_ask_for(tmp_path: Path) -> None:
    (tmp_path / "clients/python").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["evalfleet", "grpcio"]\n[project.optional-dependencies]\n'
        'a = ["one>=1"]\nb = ["evalfleet-services[a]", "two<3"]\nc = ["evalfleet[cli]"]\n'
    )
    (tmp_path / "clients/python/pyproject.toml").write_text(
        '[project]\ndependencies = ["protobuf"]\n[project.optional-dependencies]\ncli = ["click"]\n'
    )
    assert third_party_requirements(tmp_path, ()) == ["grpcio", "protobuf"]
    assert third_party_requirements(tmp_path, ("b",)) == ["grpcio", "one>=1", "protobuf", "two<3"]
    assert third_party_requirements(tmp_path, ("c",)) == ["click", "grpcio", "protobuf"]


@pytest.mark.parametrize("chosen", ALL, ids=lambda chosen: chosen.name)
def test_every_requirement_has_an_exact_version(chosen: Image) -> None:
    lines = (REPOSITORY / "requirements/constraints.txt").read_text().splitlines()
    pinned = {distribution(line) for line in lines if "==" in line}
    extras = (*EVERYWHERE, *chosen.extras)
    wanted = {distribution(each) for each in third_party_requirements(REPOSITORY, extras)}
    assert wanted <= pinned
    for line in pinned_without_requirements(REPOSITORY, chosen.without_requirements):
        assert re.fullmatch(r"[\w-]+==[\d.]+( ;.*)?", line)


def test_torch_is_where_models_are_and_nowhere_else() -> None:
    with_torch = {
        each.name
        for each in ALL
        if any(
            distribution(line) in ("torch", "transformers")
            for line in third_party_requirements(REPOSITORY, each.extras)
        )
    }
    assert with_torch == {"triton-cpu"}


def test_every_extra_is_in_an_image_or_said_not_to_be() -> None:
    held = {*EVERYWHERE, *(extra for each in ALL for extra in each.extras)}
    nested = {
        extra
        for name in held
        for requirement in PROJECT["optional-dependencies"][name]
        for extra in re.findall(r"evalfleet-services\[([\w,]+)\]", requirement)
    }
    assert set(PROJECT["optional-dependencies"]) == held | nested | set(NOT_IN_IMAGES)


def test_an_image_holds_no_other_service() -> None:
    assert image("scoring").kept_packages == frozenset({"inference", "runtime", "sandbox", "scoring"})
    assert image("aggregation").kept_packages == frozenset({"aggregation", "runtime"})
    assert image("triton-cpu").kept_packages is None


def test_the_manifests_name_images_that_are_built() -> None:
    built = {*(each.name for each in ALL), "triton-gpu"}
    manifests = (REPOSITORY / "k8s").rglob("*.yaml")
    told = re.compile(rf"image: {re.escape(PREFIX)}([\w-]+):")
    named = {name for file in manifests for name in told.findall(file.read_text())}
    assert named
    assert named <= built
