"""Which system calls a sandboxed program may make, and their numbers on the processors that are known.

Numbers are the kernel's (its unistd.h of x86-64, and the generic one for AArch64). A call that is in neither set fails
with EPERM; one that is newer than the tables fails with ENOSYS, so that C libraries fall back on an older one.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Processor:
    """A processor's name for the audit system (AUDIT_ARCH_…) and its system calls by name."""

    audit_name: int
    numbers: dict[str, int]


_FATAL: Final = """
acct add_key adjtimex bpf chroot clock_adjtime clock_settime delete_module finit_module fsconfig fsmount fsopen
fspick init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load
keyctl modify_ldt mount mount_setattr move_mount name_to_handle_at open_by_handle_at open_tree perf_event_open
pidfd_getfd pivot_root process_madvise process_vm_readv process_vm_writev ptrace quotactl reboot request_key
setdomainname sethostname setns settimeofday swapoff swapon syslog umount2 unshare userfaultfd
"""

FATAL: Final = frozenset(_FATAL.split())
"""Calls that end the process at once: no program that solves a task makes them."""

MISSING: Final = frozenset({"clone3", "pidfd_open"})
"""Calls that fail with ENOSYS. The flags of clone3 lie in memory, where no filter sees them; C libraries use clone."""

_X86_64: Final = """
access=21 acct=163 add_key=248 adjtimex=159 alarm=37 arch_prctl=158 bpf=321 brk=12 capget=125 chdir=80 chmod=90
chroot=161 clock_adjtime=305 clock_getres=229 clock_gettime=228 clock_nanosleep=230 clock_settime=227 clone=56
clone3=435 close=3 close_range=436 copy_file_range=326 creat=85 delete_module=176 dup=32 dup2=33 dup3=292
epoll_create=213 epoll_create1=291 epoll_ctl=233 epoll_pwait=281 epoll_pwait2=441 epoll_wait=232 eventfd=284
eventfd2=290 execve=59 execveat=322 exit=60 exit_group=231 faccessat=269 faccessat2=439 fadvise64=221
fallocate=285 fchdir=81 fchmod=91 fchmodat=268 fcntl=72 fdatasync=75 fgetxattr=193 finit_module=313
flistxattr=196 flock=73 fork=57 fsconfig=431 fsmount=432 fsopen=430 fspick=433 fstat=5 fstatfs=138 fsync=74
ftruncate=77 futex=202 futex_waitv=449 futimesat=261 get_robust_list=274 getcpu=309 getcwd=79 getdents=78
getdents64=217 getegid=108 geteuid=107 getgid=104 getgroups=115 getitimer=36 getpeername=52 getpgid=121
getpgrp=111 getpid=39 getppid=110 getpriority=140 getrandom=318 getresgid=120 getresuid=118 getrlimit=97
getrusage=98 getsid=124 getsockname=51 getsockopt=55 gettid=186 gettimeofday=96 getuid=102 getxattr=191
init_module=175 io_uring_enter=426 io_uring_register=427 io_uring_setup=425 ioctl=16 ioperm=173 iopl=172
kcmp=312 kexec_file_load=320 kexec_load=246 keyctl=250 kill=62 lgetxattr=192 link=86 linkat=265 listxattr=194
llistxattr=195 lseek=8 lstat=6 madvise=28 membarrier=324 mincore=27 mkdir=83 mkdirat=258 mmap=9 modify_ldt=154
mount=165 mount_setattr=442 move_mount=429 mprotect=10 mremap=25 msync=26 munmap=11 name_to_handle_at=303
nanosleep=35 newfstatat=262 open=2 open_by_handle_at=304 open_tree=428 openat=257 openat2=437 pause=34
perf_event_open=298 pidfd_getfd=438 pidfd_open=434 pipe=22 pipe2=293 pivot_root=155 poll=7 ppoll=271 prctl=157
pread64=17 preadv=295 preadv2=327 prlimit64=302 process_madvise=440 process_vm_readv=310 process_vm_writev=311
pselect6=270 ptrace=101 pwrite64=18 pwritev=296 pwritev2=328 quotactl=179 read=0 readlink=89 readlinkat=267
readv=19 reboot=169 recvfrom=45 rename=82 renameat=264 renameat2=316 request_key=249 restart_syscall=219
rmdir=84 rseq=334 rt_sigaction=13 rt_sigpending=127 rt_sigprocmask=14 rt_sigreturn=15 rt_sigsuspend=130
rt_sigtimedwait=128 sched_get_priority_max=146 sched_get_priority_min=147 sched_getaffinity=204
sched_getparam=143 sched_getscheduler=145 sched_yield=24 select=23 sendfile=40 sendto=44 set_robust_list=273
set_tid_address=218 setdomainname=171 sethostname=170 setitimer=38 setns=308 setpgid=109 setrlimit=160
setsid=112 settimeofday=164 shutdown=48 sigaltstack=131 socketpair=53 stat=4 statfs=137 statx=332 swapoff=168
swapon=167 symlink=88 symlinkat=266 sysinfo=99 syslog=103 tgkill=234 time=201 times=100 tkill=200 truncate=76
umask=95 umount2=166 uname=63 unlink=87 unlinkat=263 unshare=272 userfaultfd=323 utime=132 utimensat=280
utimes=235 vfork=58 wait4=61 waitid=247 write=1 writev=20
"""

_AARCH64: Final = """
acct=89 add_key=217 adjtimex=171 bpf=280 brk=214 capget=90 chdir=49 chroot=51 clock_adjtime=266 clock_getres=114
clock_gettime=113 clock_nanosleep=115 clock_settime=112 clone=220 clone3=435 close=57 close_range=436
copy_file_range=285 delete_module=106 dup=23 dup3=24 epoll_create1=20 epoll_ctl=21 epoll_pwait=22
epoll_pwait2=441 eventfd2=19 execve=221 execveat=281 exit=93 exit_group=94 faccessat=48 faccessat2=439
fadvise64=223 fallocate=47 fchdir=50 fchmod=52 fchmodat=53 fcntl=25 fdatasync=83 fgetxattr=10 finit_module=273
flistxattr=13 flock=32 fsconfig=431 fsmount=432 fsopen=430 fspick=433 fstat=80 fstatfs=44 fsync=82 ftruncate=46
futex=98 futex_waitv=449 get_robust_list=100 getcpu=168 getcwd=17 getdents64=61 getegid=177 geteuid=175
getgid=176 getgroups=158 getitimer=102 getpeername=205 getpgid=155 getpid=172 getppid=173 getpriority=141
getrandom=278 getresgid=150 getresuid=148 getrlimit=163 getrusage=165 getsid=156 getsockname=204 getsockopt=209
gettid=178 gettimeofday=169 getuid=174 getxattr=8 init_module=105 io_uring_enter=426 io_uring_register=427
io_uring_setup=425 ioctl=29 kcmp=272 kexec_file_load=294 kexec_load=104 keyctl=219 kill=129 lgetxattr=9
linkat=37 listxattr=11 llistxattr=12 lseek=62 madvise=233 membarrier=283 mincore=232 mkdirat=34 mmap=222
mount=40 mount_setattr=442 move_mount=429 mprotect=226 mremap=216 msync=227 munmap=215 name_to_handle_at=264
nanosleep=101 newfstatat=79 open_by_handle_at=265 open_tree=428 openat=56 openat2=437 perf_event_open=241
pidfd_getfd=438 pidfd_open=434 pipe2=59 pivot_root=41 ppoll=73 prctl=167 pread64=67 preadv=69 preadv2=286
prlimit64=261 process_madvise=440 process_vm_readv=270 process_vm_writev=271 pselect6=72 ptrace=117 pwrite64=68
pwritev=70 pwritev2=287 quotactl=60 read=63 readlinkat=78 readv=65 reboot=142 recvfrom=207 renameat=38
renameat2=276 request_key=218 restart_syscall=128 rseq=293 rt_sigaction=134 rt_sigpending=136 rt_sigprocmask=135
rt_sigreturn=139 rt_sigsuspend=133 rt_sigtimedwait=137 sched_get_priority_max=125 sched_get_priority_min=126
sched_getaffinity=123 sched_getparam=121 sched_getscheduler=120 sched_yield=124 sendfile=71 sendto=206
set_robust_list=99 set_tid_address=96 setdomainname=162 sethostname=161 setitimer=103 setns=268 setpgid=154
setrlimit=164 setsid=157 settimeofday=170 shutdown=210 sigaltstack=132 socketpair=199 statfs=43 statx=291
swapoff=225 swapon=224 symlinkat=36 sysinfo=179 syslog=116 tgkill=131 times=153 tkill=130 truncate=45 umask=166
umount2=39 uname=160 unlinkat=35 unshare=97 userfaultfd=282 utimensat=88 wait4=260 waitid=95 write=64 writev=66
"""


def _numbers(table: str) -> dict[str, int]:
    return {name: int(number) for name, number in (entry.split("=") for entry in table.split())}


PROCESSORS: Final = {
    "x86_64": Processor(0xC000003E, _numbers(_X86_64)),
    "aarch64": Processor(0xC00000B7, _numbers(_AARCH64)),
}
"""By ``platform.machine()``. What a table names is allowed, unless it is fatal, missing or looked at more closely."""
