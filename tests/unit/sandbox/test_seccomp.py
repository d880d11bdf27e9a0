"""The seccomp filter, run by an interpreter of its own for every call that matters."""

import errno

import pytest

from services.sandbox.seccomp import Instruction, filter_instructions, seccomp_filter
from services.sandbox.syscalls import FATAL, MISSING, PROCESSORS, Processor

ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000


def verdict(program: list[Instruction], number: int, processor: int, *arguments: int) -> int:
    """Interpret the few instructions that the filter is made of, as linux/filter.h defines them."""
    words = {0: number, 4: processor} | {16 + 8 * index: value & 0xFFFFFFFF for index, value in enumerate(arguments)}
    accumulator = position = 0
    while True:
        code, if_true, if_false, operand = program[position]
        position += 1
        match code:
            case 0x20:
                accumulator = words.get(operand, 0)
            case 0x06:
                return operand
            case 0x15:
                position += if_true if accumulator == operand else if_false
            case 0x25:
                position += if_true if accumulator > operand else if_false
            case 0x45:
                position += if_true if accumulator & operand else if_false
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


@pytest.fixture(params=sorted(PROCESSORS))
def processor(request: pytest.FixtureRequest) -> Processor:
    return PROCESSORS[request.param]


def test_each_call_that_is_named_has_its_verdict(processor: Processor) -> None:
    program = filter_instructions(processor)
    for name, number in processor.numbers.items():
        if name in ("clone", "ioctl", "socketpair"):
            continue
        expected = KILL if name in FATAL else FAIL | errno.ENOSYS if name in MISSING else ALLOW
        assert verdict(program, number, processor.audit_name) == expected, name


def test_what_a_table_does_not_name_fails(processor: Processor) -> None:
    program, named = filter_instructions(processor), set(processor.numbers.values())
    for number in range(max(named)):
        if number not in named:
            assert verdict(program, number, processor.audit_name) == FAIL | errno.EPERM
    assert verdict(program, max(named) + 1, processor.audit_name) == FAIL | errno.ENOSYS


def test_no_table_allows_sockets_or_new_rights(processor: Processor) -> None:
    for name in ("socket", "connect", "bind", "listen", "accept", "sendmsg", "setuid", "setresuid", "capset", "mknod",
                 "memfd_create", "shmget", "seccomp", "personality", "sched_setaffinity", "chown"):  # fmt: skip
        assert name not in processor.numbers


@pytest.mark.parametrize("flag", [0x80, 0x20000, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30])
def test_no_clone_makes_a_namespace(processor: Processor, flag: int) -> None:
    program, clone = filter_instructions(processor), processor.numbers["clone"]
    assert verdict(program, clone, processor.audit_name, 0x01200011) == ALLOW
    assert verdict(program, clone, processor.audit_name, 0x01200011 | flag) == KILL


def test_a_terminal_cannot_be_written_to_and_socketpairs_are_unix_only(processor: Processor) -> None:
    program, name = filter_instructions(processor), processor.audit_name
    assert verdict(program, processor.numbers["ioctl"], name, 0, 0x5401) == ALLOW
    for command in (0x5412, 0x541C, 0xDEADBEEF00005412):
        assert verdict(program, processor.numbers["ioctl"], name, 0, command) == FAIL | errno.EPERM
    assert verdict(program, processor.numbers["socketpair"], name, 1) == ALLOW
    assert verdict(program, processor.numbers["socketpair"], name, 2) == FAIL | errno.EPERM


def test_other_processors_and_modes_end_the_process(processor: Processor) -> None:
    program, read = filter_instructions(processor), processor.numbers["read"]
    for other in {0x40000003, 0xC000003E, 0xC00000B7} - {processor.audit_name}:
        assert verdict(program, read, other) == KILL
    assert verdict(program, read | 0x40000000, processor.audit_name) == KILL


def test_the_filter_fits_the_kernel() -> None:
    for machine in PROCESSORS:
        compiled = seccomp_filter(machine)
        assert len(compiled) % 8 == 0
        assert len(compiled) // 8 <= 4096
    with pytest.raises(KeyError):
        seccomp_filter("riscv64")
