"""The files that a sandboxed program sees: a copy of Python and of the libraries it loads, and nothing else."""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from services.sandbox import program_runner
from services.sandbox.errors import SandboxUnavailableError

# No program that solves a task needs them, and they are most of the library's size.
_FOLDERS = (
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "lib2to3",
    "ensurepip",
    "venv",
    "pydoc_data",
    "config-*",
)
_PACKAGES = ("site-packages", "dist-packages")
_LEFT_OUT_FILES = ("*.opt-1.pyc", "*.opt-2.pyc", "*.a", "*.exe")
_LEFT_OUT_EXTENSIONS = (
    *("_curses*", "_dbm*", "_gdbm*", "_ssl*", "_test*", "_tkinter*", "_ctypes_test*", "_xxtest*", "_sqlite3*"),
    *("nis*", "ossaudiodev*", "readline*", "spwd*", "xxlimited*", "xxsubtype*"),
)
_LEFT_OUT = shutil.ignore_patterns(*_FOLDERS, *_PACKAGES, *_LEFT_OUT_FILES, *_LEFT_OUT_EXTENSIONS)
_MOUNT_POINTS = ("proc", "dev", "tmp")
DEVICES = ("null", "zero", "random", "urandom")
_SHARED = "/usr/lib/shared"
_RUNNER = "/usr/lib/program_runner.py"
_VERSION = "usr/lib/python_version"
_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x[0-9a-f]+\)")


@dataclass(frozen=True, slots=True)
class RuntimeRoot:
    """A folder that is a sandbox's root file system.

    Attributes:
        folder: the root itself.
        python: path of the interpreter inside.
        runner: path of ``program_runner`` inside.
        library_path: folder of shared libraries inside, as LD_LIBRARY_PATH.
        python_version: of the interpreter.
    """

    folder: Path
    python: str
    runner: str
    library_path: str
    python_version: str

    @property
    def environment(self) -> dict[str, str]:
        """All variables of a program's environment."""
        return {
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
            "LD_LIBRARY_PATH": self.library_path,
            "PATH": "/usr/bin",
            # Sets are walked in the same order each time: the same program always ends the same way.
            "PYTHONHASHSEED": "0",
        }

    def command(self, jobs_fd: int, reports_fd: int) -> list[str]:
        """Return the command that is a program's Python inside."""
        options = ("-P", "-s", "-S", "-B", "-X", "utf8")
        return [self.python, *options, self.runner, str(jobs_fd), str(reports_fd)]


def build_runtime_root(folder: Path) -> RuntimeRoot:
    """Copy this process's Python, about 30 MB, into a folder that does not exist yet. Blocks.

    Raises:
        SandboxUnavailableError: Python's own files are not where it says.
        OSError: the disk is full, or cannot be written to.
    """
    interpreter = Path(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))
    library = Path(sysconfig.get_path("stdlib"))
    if not interpreter.is_file() or not (library / "os.py").is_file():
        raise SandboxUnavailableError(
            f"no Python to run programs with: {interpreter} and {library} are not a whole one"
        )
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for point in (*_MOUNT_POINTS, "usr/bin", "usr/lib"):
        (folder / point).mkdir(parents=True, mode=0o755)
    for device in DEVICES:
        (folder / "dev" / device).touch()
    for link, target in (("dev/shm", "/tmp"), ("dev/fd", "/proc/self/fd")):
        (folder / link).symlink_to(target)
    shutil.copy2(interpreter, folder / "usr/bin" / name)
    copied = folder / "usr/lib" / name
    shutil.copytree(library, copied, ignore=_LEFT_OUT)
    libraries = sorted(set(_libraries([folder / "usr/bin" / name, *(copied / "lib-dynload").glob("*.so")])))
    for each in libraries:
        # The linker is started by the path that binaries name; it looks for the rest where it is told to.
        is_linker = each.name.startswith("ld-")
        destination = folder / each.relative_to("/") if is_linker else folder / _SHARED[1:] / each.name
        destination.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        shutil.copy2(os.path.realpath(each), destination)
    shutil.copy2(str(program_runner.__file__), folder / "usr/lib/program_runner.py")
    (folder / _VERSION).write_text(platform.python_version())
    return RuntimeRoot(folder, f"/usr/bin/{name}", _RUNNER, _SHARED, platform.python_version())


def open_runtime_root(folder: Path) -> RuntimeRoot:
    """Return what ``build_runtime_root`` made before, in an image for instance.

    Raises:
        SandboxUnavailableError: there is no such folder, or its runner is not this version's.
    """
    interpreters = [each for each in folder.glob("usr/bin/python3.*") if each.is_file()]
    try:
        is_same = (folder / _RUNNER[1:]).read_bytes() == Path(str(program_runner.__file__)).read_bytes()
        version = (folder / _VERSION).read_text()
    except OSError:
        is_same, version = False, ""
    if len(interpreters) != 1 or not is_same:
        raise SandboxUnavailableError(
            f"there is no folder of Python for programs at {folder}, or it is another version's: make it with "
            f"`python -m services.sandbox.runtime_root {folder}`, as another user than the service's"
        )
    return RuntimeRoot(folder, f"/usr/bin/{interpreters[0].name}", _RUNNER, _SHARED, version)


def _libraries(binaries: Iterable[Path]) -> Iterator[Path]:
    """Return what the dynamic linker loads for these, the linker itself included."""
    found = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False)
    for line in found.stdout.splitlines():
        match = _LIBRARY.search(line)
        if match:
            yield Path(match[1])


def machine() -> str:
    """Return the processor's name as ``syscalls`` and the kernel write it."""
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())


if __name__ == "__main__":
    build_runtime_root(Path(sys.argv[1]))
