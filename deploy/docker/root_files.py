"""Lays out the root of the services' images; runs inside the build: ``root_files.py FOLDER``.

Debian's Python, the shared libraries that it and compiled wheels load, certificates, a user. There is no shell, no
package manager and no program but Python. Which Debian packages the files come from is written to ``status.d``, where
scanners look in images without a package manager.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Final

USER: Final = 64900
_LEFT_OUT: Final = shutil.ignore_patterns(
    *("__pycache__", "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "pydoc_data"),
    *("distutils", "config-*", "*.a", "_test*", "_ctypes_test*", "_xxtest*", "xxlimited*", "xxsubtype*"),
    # Modules that load libraries which nothing here needs: of terminals, of NIS with Kerberos, of Berkeley's database.
    *("_curses*", "_dbm*", "_gdbm*", "_tkinter*", "nis.*", "readline.*"),
)
# Wheels load these two and expect them of every system.
_FOR_WHEELS: Final = ("libstdc++.so.6", "libgcc_s.so.1", "librt.so.1", "libpthread.so.0", "libdl.so.2")
_LOADED: Final = re.compile(r"(?:=> )?(/\S+) \(0x[0-9a-f]+\)")
_LIBRARIES: Final = Path("/usr/lib") / str(sysconfig.get_config_var("MULTIARCH"))
_FILES: Final = (
    "/etc/debian_version",
    "/usr/lib/os-release",
    "/etc/ssl/openssl.cnf",
    "/usr/lib/locale/C.utf8",
)
_LINKS: Final = {
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "etc/os-release": "../usr/lib/os-release",
    # Debian's libssl looks for single files by their digest; a bundle is found under this name.
    "usr/lib/ssl/cert.pem": "/etc/ssl/certs/ca-certificates.crt",
    "usr/lib/ssl/certs": "/etc/ssl/certs",
    "usr/lib/ssl/openssl.cnf": "/etc/ssl/openssl.cnf",
    "usr/bin/python3": Path(sys.executable).resolve().name,
}
# A new volume takes the owner of the folder that it is mounted on.
_OWNED: Final = ("var/lib/evalfleet", "run/evalfleet", "models")
_ACCOUNTS: Final = {
    "passwd": f"root:x:0:0:root:/nonexistent:/nonexistent\nevalfleet:x:{USER}:{USER}::/nonexistent:/nonexistent\n",
    "group": f"root:x:0:\nevalfleet:x:{USER}:\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def main() -> None:
    """Lay out the folder that is named."""
    root = Path(sys.argv[1])
    sources = [*_copy_python(root), *_copy_libraries(root)]
    for each in map(Path, _FILES):
        _copy(each, root / each.relative_to("/"))
        sources.append(each)
    sources.append(_write_certificates(root))
    for link, target in _LINKS.items():
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        (root / link).symlink_to(target)
    for name, text in _ACCOUNTS.items():
        (root / "etc" / name).write_text(text, encoding="utf-8")
    for name in ("proc", "sys", "dev", "tmp", *_OWNED):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    for name in _OWNED:
        os.chown(root / name, USER, USER)
    _write_package_list(root / "var/lib/dpkg/status.d", sources)


def _copy_python(root: Path) -> list[Path]:
    interpreter = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    _copy(interpreter, root / interpreter.relative_to("/"))
    copied = root / library.relative_to("/")
    shutil.copytree(library, copied, ignore=_LEFT_OUT, symlinks=True)
    # Debian links some data of modules to files elsewhere.
    for link in [each for each in copied.rglob("*") if each.is_symlink() and not each.exists()]:
        link.unlink()
    command = (sys.executable, "-m", "compileall", "-q", "-f", "--invalidation-mode=unchecked-hash")
    subprocess.run((*command, "-s", str(root), "-p", "/", str(copied)), check=True)
    return [interpreter, library / "os.py", library / "json/__init__.py", library / "lib-dynload"]


def _copy_libraries(root: Path) -> list[Path]:
    copied = root / Path(sysconfig.get_path("stdlib")).relative_to("/")
    binaries = [sys.executable, *map(str, sorted((copied / "lib-dynload").glob("*.so")))]
    binaries += [str(_LIBRARIES / name) for name in _FOR_WHEELS]
    listed = subprocess.run(("ldd", *binaries), capture_output=True, text=True, check=True).stdout
    found = {Path(match[1]) for line in listed.splitlines() if (match := _LOADED.search(line))}
    found |= {_LIBRARIES / name for name in _FOR_WHEELS}
    for library in sorted(found):
        # /lib and /lib64 are links into /usr.
        inside = library if library.is_relative_to("/usr") else Path("/usr") / library.relative_to("/")
        _copy(library.resolve(), root / inside.relative_to("/"))
    return sorted(each.resolve() for each in found)


def _write_certificates(root: Path) -> Path:
    """Write the bundle of Debian's own certificates: a build machine's may have others added."""
    source = Path("/usr/share/ca-certificates/mozilla")
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_bytes(b"".join(each.read_bytes() for each in sorted(source.glob("*.crt"))))
    return source


def _write_package_list(folder: Path, sources: Iterable[Path]) -> None:
    folder.mkdir(parents=True)
    names = {name for source in sources for name in _packages_of(source)}
    for name in sorted(names):
        status = subprocess.run(("dpkg-query", "--status", name), capture_output=True, text=True, check=True)
        (folder / name.partition(":")[0]).write_text(status.stdout, encoding="utf-8")


def _packages_of(path: Path) -> list[str]:
    # Packages from before /lib was a link say /lib where the file is in /usr/lib.
    for told in (str(path), str(path).removeprefix("/usr")):
        found = subprocess.run(("dpkg-query", "--search", told), capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return [name.strip() for name in found.stdout.splitlines()[0].partition(": ")[0].split(",")]
    raise SystemExit(f"no Debian package has {path}")


def _copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, destination)
    else:
        shutil.copy2(source, destination)


if __name__ == "__main__":
    main()
