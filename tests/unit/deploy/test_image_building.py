"""The parts of a build that run without a builder."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.docker import build_images
from deploy.docker.build_images import CannotBuildError, Origin, buildah_command, parse_pip_settings
from deploy.docker.image_contents import image
from deploy.docker.sbom import write_sbom
from deploy.docker.unneeded_files import StalePatternError, Unneeded, read_list, remove_unneeded

REPOSITORY = Path(__file__).resolve().parents[3]
ORIGIN = Origin("base:1", "0.1.0", "abc", "1700000000", "")


def install(site_packages: Path, name: str, *files: str, licence: str = "MIT", version: str = "1.0") -> None:
    folder = site_packages / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: {licence}\n"
    )
    for each in files:
        (site_packages / each).parent.mkdir(parents=True, exist_ok=True)
        (site_packages / each).touch()


def test_unneeded_files_go_and_the_others_stay(tmp_path: Path) -> None:
    install(tmp_path, "one", "one/core.py", "one/tests/test_core.py", "one/sub/tests/test_sub.py")
    install(tmp_path, "two", "two/part.py")
    remove_unneeded(
        tmp_path, [Unneeded("one", "one/**/tests"), Unneeded("two", "two/part.py", "one"), Unneeded("absent", "absent")]
    )
    left = {str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*.py")}
    assert left == {"one/core.py", "two/part.py"}


def test_a_pattern_that_finds_nothing_fails_the_build(tmp_path: Path) -> None:
    install(tmp_path, "one", "one/core.py")
    with pytest.raises(StalePatternError, match="one has no one/tests"):
        remove_unneeded(tmp_path, [Unneeded("one", "one/tests")])


def test_the_list_can_be_read() -> None:
    lines = read_list(REPOSITORY / "deploy/docker/unneeded_files.txt")
    assert Unneeded("scipy", "scipy/stats", "scikit-learn") in lines
    assert len(set(lines)) == len(lines)


def test_the_list_of_contents_names_packages_of_both_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    install(tmp_path / "site", "Some_Library", licence="Apache-2.0")
    (tmp_path / "debian").mkdir()
    stanzas = [
        f"Package: {name}\nVersion: 1+deb12\nArchitecture: amd64\nDescription: x\n more: text"
        for name in ("libc6", "zlib1g")
    ]
    (tmp_path / "debian/status").write_text("\n\n".join(stanzas) + "\n\n")
    written = []
    for name in ("first", "second"):
        write_sbom(tmp_path / name, "safety", [tmp_path / "site"], tmp_path / "debian")
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    document = json.loads(written[0])
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    assert [each["purl"] for each in document["components"]] == [
        "pkg:pypi/some-library@1.0",
        "pkg:deb/debian/libc6@1%2Bdeb12?arch=amd64&distro=debian-12",
        "pkg:deb/debian/zlib1g@1%2Bdeb12?arch=amd64&distro=debian-12",
    ]
    assert document["components"][0]["licenses"] == [{"expression": "Apache-2.0"}]


def test_triton_is_among_the_contents_under_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("")
    lines = (REPOSITORY / "requirements/no-deps.txt").read_text().splitlines()
    [pinned] = [line.partition("==")[2].split()[0] for line in lines if line.startswith("nvidia-pytriton==")]
    install(tmp_path / "site", "nvidia-pytriton", version=pinned)
    write_sbom(tmp_path / "sbom", "triton-cpu", [tmp_path / "site"], tmp_path / "status")
    [triton] = [each for each in json.loads((tmp_path / "sbom").read_text())["components"] if "cpe" in each]
    assert triton["cpe"].startswith(f"cpe:2.3:a:nvidia:triton_inference_server:{triton['version']}:")
    install(tmp_path / "newer", "nvidia-pytriton", version="9.9")
    with pytest.raises(LookupError, match="which Triton is in nvidia-pytriton"):
        write_sbom(tmp_path / "sbom", "triton-cpu", [tmp_path / "newer"], tmp_path / "status")


def test_the_image_for_gpus_is_built_like_the_others() -> None:
    chosen = image("triton-gpu")
    command = buildah_command(chosen, replace(ORIGIN, base=chosen.base), [])
    assert f"--build-arg=BASE={chosen.base}" in command
    assert "--build-arg=VERSION=0.1.0" in command
    assert f"ARG BASE={chosen.base}" in (REPOSITORY / chosen.dockerfile).read_text()


def test_pips_settings_are_handed_on_where_they_say_where_packages_are() -> None:
    listed = (
        "global.index-url='https://a/simple'\n:env:.no-input='1'\n:env:.find-links='/one /two'\nglobal.timeout='9'\n"
    )
    assert parse_pip_settings(listed) == {"index-url": "https://a/simple", "find-links": "/one /two", "timeout": "9"}


def test_a_build_is_told_what_makes_it_repeatable() -> None:
    command = buildah_command(image("safety"), ORIGIN, ["/tmp/x:/etc/pip.conf"])
    assert "--timestamp=1700000000" in command
    assert "--build-arg=SOURCE_DATE_EPOCH=1700000000" in command
    assert "--build-arg=BASE=base:1" in command
    assert "--volume=/tmp/x:/etc/pip.conf:ro" in command
    assert command[command.index("--target") + 1] == "safety"
    assert command[command.index("--tag") + 1] == "localhost/evalfleet/safety:0.1.0"


def test_where_nothing_can_build_it_is_said_how_to_mend_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotBuildError, match="apt-get install buildah"):
        build_images.build_with_buildah([image("safety")], "base:1")
    (tmp_path / "buildah").write_text("#!/bin/false\n")
    (tmp_path / "buildah").chmod(0o755)
    monkeypatch.setattr(build_images, "STAND_IN_TOOL", tmp_path / "none")
    with pytest.raises(CannotBuildError, match="base:1 cannot be fetched"):
        build_images.build_with_buildah([image("safety")], "base:1")


def test_an_image_that_does_not_exist_is_refused_with_those_that_do() -> None:
    command = (sys.executable, "-m", "deploy.docker.build_images", "safty")
    said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert said.returncode == 2
    assert "known: generation, safety" in said.stderr
