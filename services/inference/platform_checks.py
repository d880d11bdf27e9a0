"""Whether the real Triton can run here; if not, what to install, or to use the local host instead."""

import ctypes.util
import platform
import sys
import sysconfig
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Final

from services.runtime.errors import StartupError

LOCAL_HINT: Final = "or run the same engines without Triton: --inference local (EVALFLEET_INFERENCE=local)"
OLDEST_GLIBC: Final = (2, 35)


class TritonUnavailableError(StartupError):
    """Triton cannot run on this machine or in this environment."""

    default_reason = "TRITON_UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class PlatformFacts:
    """What decides whether Triton runs.

    Attributes:
        system: ``Linux``, ``Darwin``, …
        machine: ``x86_64``, ``aarch64``, …
        glibc: version of the C library; None where it is another one.
        python: ``3.11``.
        python_library: folder of Python's shared library; None if this Python has none.
        triton_folder: the ``tritonserver`` folder of the nvidia-pytriton package; None if not installed.
        native_folder: shared libraries that came with it.
        has_stub: whether the package has a stub for this Python.
        numpy: installed version, empty if none.
    """

    system: str
    machine: str
    glibc: tuple[int, ...] | None
    python: str
    python_library: Path | None
    triton_folder: Path | None
    native_folder: Path | None
    has_stub: bool
    numpy: str


@dataclass(frozen=True, slots=True)
class TritonFiles:
    """Where the parts of an installed Triton are.

    Attributes:
        binary: ``tritonserver``.
        backend: folder of the Python backend.
        stub: the backend's process for this Python.
        libraries: folders that the dynamic linker must search; none: it is set up for this Triton already.
    """

    binary: Path
    backend: Path
    stub: Path
    libraries: tuple[Path, ...]


def gather_platform_facts() -> PlatformFacts:
    """Look at this machine and environment."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    triton = _triton_folder()
    return PlatformFacts(
        system=platform.system(),
        machine=platform.machine(),
        glibc=_glibc_version(),
        python=version,
        python_library=_python_library_folder(version),
        triton_folder=triton,
        native_folder=None if triton is None else triton.parents[1] / "nvidia_pytriton.libs",
        has_stub=triton is not None and _stub(triton, version).is_file(),
        numpy=_numpy_version(),
    )


def check_platform(facts: PlatformFacts) -> TritonFiles:
    """Return where Triton's parts are.

    Raises:
        TritonUnavailableError: Triton cannot run here; the message says what to install.
    """
    if facts.system != "Linux" or facts.machine not in ("x86_64", "AMD64"):
        raise _refuse(
            "TRITON_PLATFORM_UNSUPPORTED",
            f"Triton runs on x86-64 Linux, this is {facts.machine} {facts.system}: start the fleet on such a machine",
        )
    if facts.glibc is None or facts.glibc < OLDEST_GLIBC:
        found = "another C library" if facts.glibc is None else "glibc " + ".".join(map(str, facts.glibc))
        raise _refuse(
            "GLIBC_TOO_OLD",
            f"Triton needs glibc 2.35 or newer, this system has {found}: use Debian 12, Ubuntu 22.04 or newer",
        )
    if facts.triton_folder is None or facts.native_folder is None:
        raise _refuse(
            "TRITON_NOT_INSTALLED",
            "the tritonserver binary is not installed: pip install --no-deps nvidia-pytriton==0.7.0",
        )
    if not facts.has_stub:
        raise _refuse(
            "TRITON_STUB_MISSING",
            f"Triton has no Python backend for Python {facts.python}: install the fleet with Python 3.11 or 3.12",
        )
    if facts.python_library is None:
        raise _refuse(
            "PYTHON_LIBRARY_MISSING",
            f"Triton's Python backend needs Python's shared library libpython{facts.python}.so, which this Python "
            f"lacks: apt-get install libpython{facts.python} (pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared)",
        )
    if not facts.numpy or int(facts.numpy.split(".")[0]) >= 2:
        raise _refuse(
            "NUMPY_TOO_NEW",
            f"Triton 2.51's Python backend needs numpy below 2, installed is {facts.numpy or 'none'}: "
            "pip install 'numpy<2'",
        )
    return TritonFiles(
        binary=facts.triton_folder / "bin" / "tritonserver",
        backend=facts.triton_folder / "backends" / "python",
        stub=_stub(facts.triton_folder, facts.python),
        libraries=(facts.python_library, facts.native_folder),
    )


def installed_triton(folder: Path) -> TritonFiles:
    """Return where the parts of an installation are, as NVIDIA's images have it; what else it needs, they have.

    Raises:
        TritonUnavailableError: a part is missing.
    """
    backend = folder / "backends" / "python"
    files = TritonFiles(folder / "bin" / "tritonserver", backend, backend / "triton_python_backend_stub", libraries=())
    for part in (files.binary, files.stub):
        if not part.is_file():
            raise TritonUnavailableError(
                f"EVALFLEET_TRITON_DIR={folder}: there is no {part}; name the folder of an installed Triton with its "
                "Python backend (/opt/tritonserver in NVIDIA's images), or leave it out for the wheel's",
                reason="TRITON_NOT_INSTALLED",
            )
    return files


def _refuse(reason: str, message: str) -> TritonUnavailableError:
    return TritonUnavailableError(f"{message}; {LOCAL_HINT}", reason=reason)


def _triton_folder() -> Path | None:
    # Found without importing it: the package itself wants dependencies that are not needed here.
    spec = util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "tritonserver"
    return folder if (folder / "bin" / "tritonserver").is_file() else None


def _stub(triton_folder: Path, python: str) -> Path:
    return triton_folder / "python_backend_stubs" / python / "triton_python_backend_stub"


def _glibc_version() -> tuple[int, ...] | None:
    library, version = platform.libc_ver()
    if library != "glibc":
        return None
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _python_library_folder(python: str) -> Path | None:
    name = f"libpython{python}.so.1.0"
    told = [sysconfig.get_config_var(key) for key in ("LIBDIR", "LIBPL")]
    folders = [Path(folder) for folder in told if folder]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    folders += [folder / multiarch for folder in folders if multiarch] + [Path(sys.base_prefix) / "lib"]
    for folder in folders:
        if (folder / name).is_file():
            return folder
    # Installed where the dynamic linker looks by itself.
    return Path("/usr/lib") if ctypes.util.find_library(f"python{python}") else None


def _numpy_version() -> str:
    try:
        return metadata.version("numpy")
    except metadata.PackageNotFoundError:
        return ""
