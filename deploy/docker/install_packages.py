"""Installs what an image holds into its virtual environment; runs inside the build.

``install_packages.py third-party IMAGE`` comes first, and need not be done again when only our sources have changed;
``install_packages.py own IMAGE`` adds them.

Versions come from requirements/constraints.txt. Bytecode is checked by nothing at run time: an image never changes, its
file times are all the same, and its root cannot be written to.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from deploy.docker.image_contents import EVERYWHERE, Image, image, pinned_without_requirements, third_party_requirements
from deploy.docker.sbom import write_sbom
from deploy.docker.unneeded_files import read_list, remove_unneeded

REPOSITORY: Final = Path(__file__).resolve().parents[2]
PREFIX: Final = Path("/opt/evalfleet")
VENV: Final = PREFIX / "venv"
WHEELS: Final = Path("/wheels")
DEBIAN_PACKAGES: Final = WHEELS / "debian"
PIP: Final = (sys.executable, "-m", "pip", "--python", str(VENV / "bin/python"))
_ELF: Final = b"\x7fELF"


def main() -> None:
    """Do one of the two steps."""
    step, chosen = sys.argv[1], image(sys.argv[2])
    site_packages = next((VENV / "lib").glob("python3.*/site-packages"))
    {"third-party": install_third_party, "own": install_own}[step](chosen, site_packages)
    for script in (VENV / "bin").iterdir():
        if not script.name.startswith("python") and script.name != "evalfleet":
            script.unlink()
    compile_bytecode(site_packages)


def install_third_party(chosen: Image, site_packages: Path) -> None:
    """Install the packages that the image's extras ask for, and cut them down if it is to be lean."""
    wanted = third_party_requirements(REPOSITORY, (*EVERYWHERE, *chosen.extras))
    requirements = [each for each in wanted if not each.startswith(chosen.leaves_out)]
    _install("--constraint", str(REPOSITORY / "requirements/constraints.txt"), *requirements)
    if chosen.leaves_out:
        _run(*PIP, "uninstall", "--quiet", "--yes", *chosen.leaves_out)
    if chosen.without_requirements:
        _install("--no-deps", *pinned_without_requirements(REPOSITORY, chosen.without_requirements))
    if chosen.lean:
        remove_unneeded(site_packages, read_list(Path(__file__).with_name("unneeded_files.txt")))
        strip_symbols(site_packages)


def install_own(chosen: Image, site_packages: Path) -> None:
    """Install the client and the services, and write down what the image consists of."""
    _install("--no-deps", *sorted(map(str, WHEELS.glob("*.whl"))))
    for package in (site_packages / "services").iterdir():
        if package.is_dir() and chosen.kept_packages is not None and package.name not in chosen.kept_packages:
            shutil.rmtree(package)
    write_sbom(PREFIX / "sbom.cdx.json", chosen.name, [site_packages], DEBIAN_PACKAGES)


def strip_symbols(folder: Path) -> None:
    """Take symbols out of compiled modules; some wheels are mostly that.

    Libraries that a wheel brings along in a folder of their own stay whole: they were patched, and break.
    """
    modules = (each for each in sorted(folder.rglob("*.so*")) if not each.parent.name.endswith(".libs"))
    libraries = [each for each in modules if not each.is_symlink() and _is_elf(each)]
    _run("strip", "--strip-unneeded", *map(str, libraries))


def compile_bytecode(folder: Path) -> None:
    """Compile all modules below a folder that are not yet; as in pip, what is for another Python's syntax is left."""
    command = (sys.executable, "-m", "compileall", "-qq", "--invalidation-mode=unchecked-hash", str(folder))
    subprocess.run(command, check=False)


def _is_elf(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(_ELF)) == _ELF


def _install(*arguments: str) -> None:
    _run(*PIP, "install", "--quiet", "--no-compile", "--no-cache-dir", "--root-user-action=ignore", *arguments)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
