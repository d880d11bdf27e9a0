"""The seccomp filter of a sandbox, as the kernel's classic BPF program.

The kernel runs it before every system call on ``struct seccomp_data``: the call's number at byte 0, the processor's
name at byte 4, and each argument in 8 bytes from byte 16. Source of the instructions' form: linux/filter.h.
"""

import errno
import struct

from services.sandbox.syscalls import FATAL, MISSING, PROCESSORS, Processor

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_IF_GREATER = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_JUMP_IF_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_FAIL = 0x00050000  # with the error number in the low 16 bits

_NUMBER_AT, _PROCESSOR_AT, _FIRST_ARGUMENT_AT, _SECOND_ARGUMENT_AT = 0, 4, 16, 24
_X32_BIT = 0x40000000
_AF_UNIX = 1
# CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. All are in the low 32 bits of the flags.
_NAMESPACE_FLAGS = 0x80 | 0x20000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX: a terminal cannot be written to (TIOCSTI, TIOCLINUX).
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_LOOKED_AT = frozenset({"clone", "ioctl", "socketpair"})

Instruction = tuple[int, int, int, int]
"""Code, how many instructions to skip if true, and if false, and the operand."""


def seccomp_filter(machine: str) -> bytes:
    """Return the filter for a processor, as bubblewrap's ``--seccomp`` reads it.

    Args:
        machine: as ``platform.machine()`` says it.

    Raises:
        KeyError: the processor's system calls are not known.
    """
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in filter_instructions(PROCESSORS[machine]))


def filter_instructions(processor: Processor) -> list[Instruction]:
    """Return the filter's instructions; most calls are decided by their number alone."""
    numbers = processor.numbers
    program: list[Instruction] = [
        (_LOAD_WORD, 0, 0, _PROCESSOR_AT),
        (_JUMP_IF_EQUAL, 1, 0, processor.audit_name),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD_WORD, 0, 0, _NUMBER_AT),
        # Calls of the x32 mode have numbers of their own, which no table here knows.
        *_when(_JUMP_IF_ANY_BIT, _X32_BIT, _KILL_PROCESS),
        *_when(_JUMP_IF_GREATER, max(numbers.values()), _FAIL | errno.ENOSYS),
    ]
    for name, number in sorted(numbers.items(), key=lambda entry: entry[1]):
        if name in FATAL:
            program += _when(_JUMP_IF_EQUAL, number, _KILL_PROCESS)
        elif name in MISSING:
            program += _when(_JUMP_IF_EQUAL, number, _FAIL | errno.ENOSYS)
        elif name not in _LOOKED_AT:
            program += _when(_JUMP_IF_EQUAL, number, _ALLOW)
    clone = [
        (_LOAD_WORD, 0, 0, _FIRST_ARGUMENT_AT),
        *_when(_JUMP_IF_ANY_BIT, _NAMESPACE_FLAGS, _KILL_PROCESS),
        (_RETURN, 0, 0, _ALLOW),
    ]
    socketpair = [
        (_LOAD_WORD, 0, 0, _FIRST_ARGUMENT_AT),
        *_when(_JUMP_IF_EQUAL, _AF_UNIX, _ALLOW),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
    ]
    ioctl: list[Instruction] = [(_LOAD_WORD, 0, 0, _SECOND_ARGUMENT_AT)]
    for command in _IOCTLS:
        ioctl += _when(_JUMP_IF_EQUAL, command, _ALLOW)
    ioctl.append((_RETURN, 0, 0, _FAIL | errno.EPERM))
    for name, part in (("clone", clone), ("socketpair", socketpair), ("ioctl", ioctl)):
        program += [(_JUMP_IF_EQUAL, 0, len(part), numbers[name]), *part]
    program.append((_RETURN, 0, 0, _FAIL | errno.EPERM))
    return program


def _when(jump: int, operand: int, verdict: int) -> list[Instruction]:
    return [(jump, 0, 1, operand), (_RETURN, 0, 0, verdict)]
