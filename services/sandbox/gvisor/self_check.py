"""The program that decides whether places in this container contain anything: it passes only where it gets nowhere."""

from services.sandbox.contract import Program

_ATTEMPTS = """
import os, signal, socket

def refused(attempt, *arguments):
    try:
        attempt(*arguments)
    except OSError:
        return True
    return False

def signal_of(attempt, *arguments):
    child = os.fork()
    if child == 0:
        try:
            attempt(*arguments)
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])
"""
_EXPECTED = """
assert os.getuid() != 0 and os.getpid() < 10, "the user or the process namespace is the container's"
assert not os.path.exists("/proc/self"), "processes are seen"
assert refused(socket.socket), "a socket can be made"
assert refused(os.listdir, "/home") and refused(os.listdir, "/etc") and refused(os.listdir, "/sys"), "files are seen"
assert set(os.listdir("/")) <= {"dev", "lib", "lib64", "proc", "tmp", "usr"}, "more files are seen"
for folder, folders, files in os.walk("/"):
    if folder.startswith("/tmp"):
        continue
    assert refused(os.mkdir, folder + "/x"), f"{folder} can be written to"
    assert refused(os.chmod, folder, 0o777), f"{folder} is the program's"
assert signal_of(os.chroot, "/tmp") == signal.SIGSYS, "no filter of system calls is in force"
assert refused(os.setuid, 0), "programs may become another user"
assert os.listdir("/tmp") == [], "something lies in /tmp"
open("/tmp/x", "w").close()
"""

CHECK = Program(source=_ATTEMPTS, tests=_EXPECTED, timeout_seconds=30.0)
"""Run in the first place before any other program."""
