"""The program that decides whether sandboxes here contain anything: it passes only where it gets nowhere."""

from services.sandbox.contract import Program

_ATTEMPTS = """
import os, socket

def refused(attempt, *arguments):
    try:
        attempt(*arguments)
    except OSError:
        return True
    return False

def status():
    with open("/proc/self/status") as file:
        return dict(line.rstrip("\\n").split(":\\t", 1) for line in file)
"""
_EXPECTED = """
said = status()
assert said["Seccomp"] == "2", "no filter of system calls is in force"
assert said["NoNewPrivs"] == "1", "programs may gain rights"
assert all(int(said[name], 16) == 0 for name in ("CapPrm", "CapEff", "CapBnd")), "programs have capabilities"
assert os.getuid() != 0 and os.getpid() < 10, "the user or the process namespace is the machine's"
assert refused(socket.socket), "a socket can be made"
assert refused(os.listdir, "/home") and refused(os.listdir, "/etc") and refused(os.listdir, "/sys"), "files are seen"
assert refused(open, "/usr/lib/x", "w") and refused(os.mkdir, "/x"), "the root can be written to"
assert set(os.listdir("/")) <= {"dev", "lib", "lib64", "proc", "tmp", "usr"}, "more files are seen"
"""

CHECK = Program(source=_ATTEMPTS, tests=_EXPECTED, timeout_seconds=20.0)
"""Run in the first sandbox before any other program."""
