"""Goes from the runner's container into a place of its own, and becomes the program's Python there; run as a script.

Standard library only. Its arguments are the root folder, three file descriptors (the filter of system calls, jobs,
reports), the program's environment as ``NAME=VALUE``, ``--`` and the command. Three processes come of it: this one,
which waits outside; the first process of a process namespace, whose end is the end of all in it; and the program.
"""

import contextlib
import ctypes
import os
import signal
import sys
import typing

_NAMESPACES = 0x10000000 | 0x08000000 | 0x04000000 | 0x20000000 | 0x40000000  # user, IPC, UTS, process, network
_USER = 1000
_SET_PARENT_DEATH_SIGNAL, _SET_SECCOMP, _DROP_BOUND, _NO_NEW_PRIVILEGES = 1, 22, 24, 38
_FILTER_MODE = 2
_CAPABILITIES = 64
_INSTRUCTION_BYTES = 8

_libc = ctypes.CDLL(None, use_errno=True)


class _Filter(ctypes.Structure):
    """The kernel's ``struct sock_fprog``."""

    _fields_: typing.ClassVar = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def main(root: str, filter_fd: int, jobs: int, reports: int, variables: list[str], command: list[str]) -> int:
    """Start the program's Python; return its exit status as a shell says it."""
    instructions = _read(filter_fd)
    os.setsid()
    _end_with_parent()
    user, group = os.getuid(), os.getgid()
    _checked(_libc.unshare(_NAMESPACES), "unshare")
    # Some kernels want it before groups are mapped, and some do not have it.
    with contextlib.suppress(OSError):
        _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{_USER} {user} 1")
    _write("/proc/self/gid_map", f"{_USER} {group} 1")
    first = os.fork()
    if first:
        os.close(jobs)
        os.close(reports)
        return _status_of(first)
    _end_with_parent()
    _checked(_libc.chroot(root.encode()), "chroot")
    os.chdir("/tmp")
    program = os.fork()
    if program:
        os.closerange(0, 1024)
        os._exit(_status_of(program))
    _give_up_rights(instructions)
    os.execve(command[0], command, dict(each.split("=", 1) for each in variables))


def _give_up_rights(instructions: bytes) -> None:
    """Keep no capability over the namespaces, and get none back; then only the calls that the filter allows."""
    for capability in range(_CAPABILITIES):
        # Beyond those that the kernel knows it refuses.
        _libc.prctl(_DROP_BOUND, capability, 0, 0, 0)
    _checked(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no_new_privs")
    compiled = _Filter(len(instructions) // _INSTRUCTION_BYTES, instructions)
    _checked(_libc.prctl(_SET_SECCOMP, _FILTER_MODE, ctypes.byref(compiled), 0, 0), "seccomp")


def _end_with_parent() -> None:
    _checked(_libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0), "parent death signal")


def _status_of(process: int) -> int:
    """Wait for a process, and for others that are left to this one meanwhile."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    while True:
        ended, status = os.wait()
        if ended == process:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _read(fd: int) -> bytes:
    read = b""
    while chunk := os.read(fd, 1 << 16):
        read += chunk
    os.close(fd)
    return read


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _checked(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    _end = sys.argv.index("--")
    _filter_fd, _jobs, _reports = map(int, sys.argv[2:5])
    sys.exit(main(sys.argv[1], _filter_fd, _jobs, _reports, sys.argv[5:_end], sys.argv[_end + 1 :]))
