"""Programs that try to get out of a sandbox, or to harm what is beside it; written for these tests.

A program that reaches something sets ``escaped``; one that only must be stopped, or only must be refused, is told apart
by how its run may end. ``{...}`` in a source is something of the machine's that the tests put in place.
"""

from dataclasses import dataclass

from services.sandbox.contract import Ending

CONTAINED = frozenset({Ending.PASSED})
KILLED = frozenset({Ending.KILLED})
HUNG = frozenset({Ending.TIMED_OUT})
MEMORY = frozenset({Ending.MEMORY_LIMIT})
PROCESSES = frozenset({Ending.PROCESS_LIMIT})
UNTESTED = frozenset({Ending.EXITED_EARLY})

BEGINNING = """
import contextlib, ctypes, errno, os, signal, socket, subprocess, sys, threading, time
escaped = []
def attempt(action, *arguments):
    try:
        got = action(*arguments)
    except (OSError, ImportError, AttributeError, ValueError, subprocess.SubprocessError):
        return None
    escaped.append(f"{action} {arguments} gave {got!r}")
    return got
def readable(path):
    with open(path, "rb") as file:
        return file.read(100)
def write(path):
    with open(path, "ab") as file:
        return file.write(b"was here")
libc = ctypes.CDLL(None, use_errno=True)
def system_call(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result
def in_child(action):
    child = os.fork()
    if child == 0:
        action()
        os._exit(0)
    return os.waitpid(child, 0)[1]
"""
TESTS = "assert not escaped, escaped"


@dataclass(frozen=True)
class HostileProgram:
    """A program, and how its run may end if it is contained."""

    source: str
    endings: frozenset[Ending] = CONTAINED
    timeout_seconds: float = 20.0


def _call_in_children(*numbers: int) -> HostileProgram:
    """Each call is made in a child of its own, which it must not survive."""
    return HostileProgram(
        f"for number in {numbers!r}:\n"
        "    status = in_child(lambda: libc.syscall(number, 0, 0, 0, 0, 0, 0))\n"
        "    if os.WTERMSIG(status) != signal.SIGSYS: escaped.append((number, status))"
    )


HOSTILE_PROGRAMS = {
    # Taking what there is.
    "fork_bomb": HostileProgram(
        "while True:\n    with contextlib.suppress(OSError):\n        os.fork()", PROCESSES, timeout_seconds=1.0
    ),
    "thread_bomb": HostileProgram("while True: threading.Thread(target=time.sleep, args=(60,)).start()", PROCESSES),
    "zombie_flood": HostileProgram("while True:\n    if os.fork() == 0: os._exit(0)", PROCESSES),
    "memory_hog": HostileProgram("kept = []\nwhile True: kept.append(bytearray(1 << 20))", MEMORY),
    "memory_at_once": HostileProgram("bytearray(1 << 40)", MEMORY),
    "memory_hogs": HostileProgram(
        "for _ in range(8):\n"
        "    if os.fork() == 0:\n"
        "        kept = bytearray(os.urandom(1 << 20)) * 200\n"
        "        time.sleep(60)\n"
        "time.sleep(60)",
        MEMORY | HUNG,
        timeout_seconds=2.0,
    ),
    "shared_memory": HostileProgram(
        "import mmap\nkept = []\nwhile True:\n"
        "    kept.append(mmap.mmap(-1, 1 << 24))\n    kept[-1].write(b'x' * (1 << 24))",
        MEMORY,
    ),
    "endless_loop": HostileProgram("while True: pass", HUNG, timeout_seconds=0.5),
    "sleep": HostileProgram("time.sleep(3600)", HUNG, timeout_seconds=0.5),
    "sleep_deaf_to_signals": HostileProgram(
        "for number in range(1, 65):\n"
        "    with contextlib.suppress(OSError, ValueError):\n"
        "        signal.signal(number, signal.SIG_IGN)\n"
        "while True: time.sleep(1)",
        HUNG,
        timeout_seconds=0.5,
    ),
    "endless_loop_in_c": HostileProgram("9 ** 9 ** 9", HUNG | MEMORY, timeout_seconds=0.5),
    "huge_output": HostileProgram("while True: print('x' * 10_000)", frozenset({Ending.OUTPUT_LIMIT})),
    "huge_output_of_a_child": HostileProgram(
        "if os.fork() == 0:\n    while True: os.write(2, b'x' * 10_000)\ntime.sleep(60)",
        frozenset({Ending.OUTPUT_LIMIT}),
    ),
    "full_disk": HostileProgram("file = open('/tmp/x', 'wb')\nwhile True: file.write(bytes(1 << 20))", MEMORY),
    "many_full_files": HostileProgram(
        "for number in range(1000): open(f'/tmp/{{number}}', 'wb').write(bytes(1 << 20))",
        MEMORY,
    ),
    "inodes": HostileProgram(
        "number = 0\nwhile True:\n    os.mkdir(f'/tmp/{{number}}')\n    number += 1", MEMORY | HUNG, timeout_seconds=1.0
    ),
    "deep_recursion": HostileProgram(
        "sys.setrecursionlimit(10 ** 9)\ndef deeper(n): return [deeper(n + 1)]\ndeeper(0)", KILLED | MEMORY
    ),
    "deep_nesting": HostileProgram("eval('(' * 100_000 + ')' * 100_000)", frozenset(Ending) - CONTAINED),
    # Reading and writing what is outside.
    "files_outside": HostileProgram(
        "roots = [os.path.join('/proc', who, 'root') for who in ('1', 'self')]\n"
        "for path in ('/etc/passwd', '/etc/shadow', '/etc/hostname', '/root', '/home', '/var', '/sys', '/run',\n"
        "             '/boot', '/opt', *(os.path.join(root, way, 'etc/passwd') for root in roots\n"
        "                                for way in ('', '../..')), {secret!r}):\n"
        "    attempt(readable, path)\n    attempt(os.listdir, path)"
    ),
    "links_outside": HostileProgram(
        "for number, target in enumerate(({secret!r}, '/', '/proc/1/root', '/../../..')):\n"
        "    os.symlink(target, f'/tmp/link{{number}}')\n"
        "attempt(readable, '/tmp/link0')\n"
        "for number in (1, 2, 3):\n    attempt(readable, f'/tmp/link{{number}}/etc/passwd')\n"
        "attempt(os.link, {secret!r}, '/tmp/hard')"
    ),
    "writes_anywhere": HostileProgram(
        "for folder, folders, files in os.walk('/'):\n"
        "    if folder.startswith(('/proc', '/tmp')):\n        continue\n"
        "    attempt(write, os.path.join(folder, 'new'))\n"
        "    for name in files[:3]:\n"
        "        if folder != '/dev': attempt(write, os.path.join(folder, name))\n"
        "attempt(os.chmod, '/usr', 0o777)\nattempt(os.rename, '/usr', '/rsu')\nattempt(os.unlink, sys.executable)"
    ),
    "environment": HostileProgram(
        "assert not any({environment!r} in text for text in (*os.environ, *os.environ.values()))\n"
        "for process in filter(str.isdigit, os.listdir('/proc')):\n"
        "    with contextlib.suppress(OSError):\n"
        "        if {environment!r}.encode() in readable(f'/proc/{{process}}/environ'): escaped.append(process)"
    ),
    "other_processes": HostileProgram(
        "seen = sorted(map(int, filter(str.isdigit, os.listdir('/proc'))))\n"
        "if len(seen) > 2 or {host_process} in seen: escaped.append(seen)\n"
        "for name in ('mem', 'maps', 'environ', 'cwd', 'root', 'fd'):\n"
        "    attempt(os.listdir, f'/proc/{host_process}/{{name}}')"
    ),
    "first_process": HostileProgram(
        # It is a process of the sandbox like any other, but it was started from outside.
        "for number in range(1024):\n"
        "    with contextlib.suppress(OSError):\n"
        "        target = os.readlink(f'/proc/1/fd/{{number}}')\n"
        "        if not target.startswith(('pipe:', 'anon_inode:[eventfd]', '/dev/null')): escaped.append(target)\n"
        "if os.listdir('/proc/1/root') != os.listdir('/'): escaped.append('another root')\n"
        "if 'CapEff:\\t0000000000000000' not in open('/proc/1/status').read(): escaped.append('its rights')"
    ),
    "kernel_files": HostileProgram(
        "for path in ('/proc/kcore', '/proc/kmsg', '/dev/mem', '/dev/kmsg', '/dev/sda', '/dev/vda', '/dev/fuse'):\n"
        "    attempt(readable, path)\n"
        "for path in ('/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/proc/self/oom_score_adj_',\n"
        "             '/proc/sys/kernel/hostname', '/proc/1/oom_score_adj'):\n    attempt(write, path)"
    ),
    "devices": HostileProgram(
        "import stat\n"
        "attempt(os.mknod, '/tmp/disk', 0o600 | stat.S_IFBLK, os.makedev(254, 0))\n"
        "attempt(os.mknod, '/tmp/memory', 0o600 | stat.S_IFCHR, os.makedev(1, 1))\n"
        "seen = set(os.listdir('/dev')) - {{'null', 'zero', 'random', 'urandom', 'shm', 'fd'}}\n"
        "if seen: escaped.append(seen)"
    ),
    "inherited_files": HostileProgram(
        "for number in range(3, 1024):\n"
        "    with contextlib.suppress(OSError):\n"
        "        target = os.readlink(f'/proc/self/fd/{{number}}')\n"
        "        if not target.startswith(('pipe:', '/proc/')): escaped.append(target)"
    ),
    "standard_input": HostileProgram("if sys.stdin.read(): escaped.append('input')"),
    # The network.
    "sockets": HostileProgram(
        "for family in range(50):\n"
        "    for kind in (1, 2, 3, 5):\n        attempt(socket.socket, family, kind)\n"
        "attempt(socket.create_connection, ('127.0.0.1', {port}), 1)\n"
        "attempt(socket.getaddrinfo, 'localhost', 'http')\nattempt(socket.gethostbyname, 'example.com')\n"
        "attempt(socket.socketpair, socket.AF_INET)"
    ),
    "no_interfaces": HostileProgram(
        "with open('/proc/self/net/dev') as file: names = [line.split(':')[0].strip() for line in file][2:]\n"
        "if set(names) - {{'lo'}}: escaped.append(names)"
    ),
    "socket_from_below": HostileProgram(
        "for number in (41, 42, 49, 50, 43, 288, 46, 307):\n    attempt(system_call, number, 1, 1, 0)"
    ),
    # Rights, and other processes.
    "signals": HostileProgram("attempt(os.kill, {host_process}, 0)\nattempt(os.kill, {host_process}, signal.SIGKILL)"),
    "signal_to_everybody": HostileProgram("with contextlib.suppress(ProcessLookupError): os.kill(-1, signal.SIGKILL)"),
    "signal_to_its_parent": HostileProgram(
        "for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL): os.kill(os.getppid(), number)\ntime.sleep(60)",
        KILLED | HUNG | UNTESTED,
        timeout_seconds=1.0,
    ),
    "other_user": HostileProgram(
        "for name in ('setuid', 'setgid', 'seteuid', 'setegid'):\n    attempt(getattr(os, name), 0)\n"
        "attempt(os.setgroups, [0])\nattempt(os.setresuid, 0, 0, 0)\nattempt(os.chown, '/tmp', 0, 0)\n"
        "if 0 in (os.getuid(), os.geteuid(), os.getgid()): escaped.append('root')"
    ),
    "higher_limits": HostileProgram(
        "import resource\n"
        "for name in ('AS', 'CPU', 'FSIZE', 'NPROC', 'NOFILE', 'CORE', 'MEMLOCK'):\n"
        "    which = getattr(resource, f'RLIMIT_{{name}}')\n"
        "    soft, hard = resource.getrlimit(which)\n"
        "    if hard < 0: escaped.append(name)\n"
        "    attempt(resource.setrlimit, which, (hard + 1, hard + 1))\n"
        "    attempt(resource.setrlimit, which, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "attempt(os.nice, -1)\nattempt(os.sched_setaffinity, 0, [0])"
    ),
    # ptrace, mount, umount2, pivot_root, chroot, unshare, setns, keyctl, add_key, bpf, perf_event_open, userfaultfd
    "forbidden_calls": _call_in_children(101, 165, 166, 155, 161, 272, 308, 250, 248, 321, 298, 323),
    # io_uring_setup, kexec_load, init_module, delete_module, reboot, open_by_handle_at, process_vm_readv, move_mount,
    # fsopen, open_tree, swapon, sethostname, iopl, settimeofday
    "more_forbidden_calls": _call_in_children(425, 246, 175, 176, 169, 304, 310, 429, 430, 428, 167, 170, 172, 164),
    "unnamed_calls": HostileProgram(
        "for number in (*range(451, 600), 435, 434, 317, 319, 135, 203, 105, 106, 117, 133, 126, 92, 29, 64, 68):\n"
        "    attempt(system_call, number, 1, 0, 0, 0, 0, 0)"
    ),
    "new_namespaces": HostileProgram(
        "for flag in (0x20000, 0x10000000, 0x40000000, 0x20000000):\n"
        "    status = in_child(lambda: libc.syscall(56, flag | signal.SIGCHLD, 0, 0, 0, 0))\n"
        "    if os.WTERMSIG(status) != signal.SIGSYS: escaped.append((flag, status))"
    ),
    "old_call_gate": HostileProgram(
        # int 0x80 with eax = 20, getpid of the 32-bit table, from a page of its own.
        "import mmap\n"
        "def gate():\n"
        "    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
        "    page.write(b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3')\n"
        "    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()\n"
        "if os.WIFEXITED(in_child(gate)): escaped.append('32-bit calls')"
    ),
    "typing_into_a_terminal": HostileProgram(
        "import fcntl, termios\n"
        "for number in (0, 1, 2):\n    attempt(fcntl.ioctl, number, termios.TIOCSTI, b'x')\n"
        "attempt(open, '/dev/tty', 'r+b')\nattempt(os.openpty)"
    ),
    "other_programs": HostileProgram(
        "for path in ('/bin/sh', '/usr/bin/env', '/bin/ls', '/sbin/reboot', '/usr/bin/bwrap', '/usr/bin/sudo'):\n"
        "    attempt(os.execv, path, [path])\n"
        "attempt(subprocess.run, ['/bin/sh', '-c', 'id'])\n"
        "if os.system('true') == 0: escaped.append('a shell')"
    ),
    "set_user_id_file": HostileProgram(
        "import shutil\nshutil.copy(sys.executable, '/tmp/python')\nos.chmod('/tmp/python', 0o6755)\n"
        "command = ['/tmp/python', '-S', '-c', 'import os; print(os.geteuid())']\n"
        "said = subprocess.run(command, capture_output=True).stdout\n"
        "if said.strip() == b'0': escaped.append(said)"
    ),
    # Staying behind, and what the next program finds.
    "daemon": HostileProgram(
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        sys.argv[:] = [{marker!r}]\n"
        "        while True:\n            write('/tmp/alive')\n            time.sleep(0.01)\n"
        "    os._exit(0)"
    ),
    "thread_left_behind": HostileProgram("threading.Thread(target=time.sleep, args=(3600,)).start()"),
    "leaves_files": HostileProgram("write('/tmp/{marker}')\nos.mkdir('/dev/shm/{marker}.d')"),
    "finds_files": HostileProgram("if os.listdir('/tmp'): escaped.append(os.listdir('/tmp'))"),
    # Passing without having passed.
    "exit": HostileProgram("sys.exit(0)", UNTESTED),
    "exit_at_once": HostileProgram("os._exit(0)", UNTESTED),
    "exit_in_the_tests": HostileProgram("escaped = type('', (), {{'__bool__': lambda self: os._exit(0)}})()", UNTESTED),
    "exit_at_exit": HostileProgram("import atexit\natexit.register(os._exit, 0)\nraise SystemExit", UNTESTED),
    "closes_everything": HostileProgram("os.closerange(0, 1024)\ntime.sleep(0.1)", frozenset(Ending) - CONTAINED),
    "kills_itself": HostileProgram("os.kill(os.getpid(), signal.SIGKILL)", KILLED),
    "crash": HostileProgram("ctypes.string_at(0)", KILLED),
    "says_passed": HostileProgram(
        "print('passed')\nprint('ended passed -', flush=True)\nraise ValueError", frozenset({Ending.EXCEPTION})
    ),
    "forges_the_report": HostileProgram(
        "for number in range(3, 1024):\n"
        "    with contextlib.suppress(OSError): os.write(number, b'ended passed ' + b'0' * 32 + b' \\n')\n"
        "time.sleep(60)",
        frozenset({Ending.FORGED}),
    ),
    "floods_the_report": HostileProgram(
        "for number in range(3, 1024):\n"
        "    with contextlib.suppress(OSError):\n        os.write(number, b'x' * 60_000)\n"
        "time.sleep(60)",
        frozenset({Ending.FORGED}),
    ),
    "patched_builtins": HostileProgram(
        "import builtins\n"
        "class Never(Exception): pass\n"
        "builtins.AssertionError = Never\nbuiltins.BaseException = Never\nbuiltins.SystemExit = Never\n"
        "builtins.exec = builtins.compile = lambda *arguments, **named: None\n"
        "os.write = os.read = sys.exit = lambda *arguments: None\n"
        "escaped.append('so that the test must fail')",
        frozenset({Ending.WRONG}),
    ),
    "patched_exception_hooks": HostileProgram(
        "sys.excepthook = threading.excepthook = lambda *arguments: os._exit(0)\nescaped.append('x')",
        frozenset({Ending.WRONG}),
    ),
}
"""By name."""
