"""Runs code that a model wrote, after locking itself in. Started alone, by `code_execution`.

It gets a job as JSON on its standard input and reports on a pipe. It imports nothing beyond the
standard library: it runs with -I -S, without the packages that are installed.
"""

import json
import os
import sys

# Calls of Linux on x86-64 that computing takes, by number (arch/x86/entry/syscalls).
_ALLOWED = {
    "read": 0, "write": 1, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8,
    "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14,
    "rt_sigreturn": 15, "pread64": 17, "readv": 19, "writev": 20, "access": 21, "sched_yield": 24,
    "mremap": 25, "madvise": 28, "dup": 32, "nanosleep": 35, "getpid": 39, "exit": 60, "uname": 63,
    "getcwd": 79, "readlink": 89, "gettimeofday": 96, "getrusage": 98, "sysinfo": 99, "times": 100,
    "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110,
    "sigaltstack": 131, "gettid": 186, "time": 201, "futex": 202, "sched_getaffinity": 204,
    "getdents64": 217, "set_tid_address": 218, "restart_syscall": 219, "clock_gettime": 228,
    "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "newfstatat": 262,
    "readlinkat": 267, "faccessat": 269, "set_robust_list": 273, "getrandom": 318, "statx": 332,
    "rseq": 334, "faccessat2": 439,
}  # fmt: skip
_OPEN, _OPENAT, _CLONE, _IOCTL, _FCNTL, _CLONE3 = 2, 257, 56, 16, 72, 435
_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | 0o20000000  # TMPFILE
_CLONE_THREAD = 0x10000
_TERMINAL = (0x5401, 0x5413)  # is this one, and how large
_DESCRIPTOR = (1, 2, 3, 1030)  # F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # instructions of classic BPF
_PASS, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000  # what seccomp does; _FAIL | errno
_PERMISSION, _NO_CALL = 1, 38
_X86_64 = 0xC000003E


def main() -> None:
    """Read the job, lock, run, report, and leave without waiting for threads."""
    job = json.load(sys.stdin)
    enforced = lock(job["memory"], job["seconds"])
    report(job["pipe"], {"enforced": enforced})
    if set(job["required"]) <= set(enforced):
        report(
            job["pipe"], {"token": job["token"], "outcome": outcome(job["code"], job["asserts"])}
        )
    os._exit(0)


def outcome(code: str, asserts: list[str]) -> str:
    """What becomes of the code and the assertions after it."""
    names: dict[str, object] = {"__name__": "answer"}
    try:
        exec(compile(code, "answer", "exec"), names)
        for line in asserts:
            exec(compile(line, "assertion", "exec"), names)
    except AssertionError:
        return "failed"
    except MemoryError:
        return "memory"
    except BaseException:  # SystemExit too: the answer ended the run before its assertions
        return "error"
    return "passed"


def lock(memory: int, seconds: int) -> list[str]:
    """Give up what this process need not have; which of the protections hold."""
    import resource

    def limit(kind: int, soft: int, hard: int | None = None) -> bool:
        try:
            resource.setrlimit(kind, (soft, soft if hard is None else hard))
        except (ValueError, OSError):
            return False
        return True

    enforced = []
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_NOFILE, 64)
    limit(resource.RLIMIT_FSIZE, 0)
    if limit(resource.RLIMIT_CPU, seconds, seconds + 1):
        enforced.append("time")
    if sys.platform == "linux":
        if limit(resource.RLIMIT_AS, memory):
            enforced.append("memory")
        enforced += lock_linux()
    return enforced


def lock_linux() -> list[str]:
    """Filter the system calls; without a filter for this machine, at least part from the network.

    Both hold for whatever runs in the process, also for machine code.
    """
    import ctypes
    import platform
    import signal
    import struct

    libc = ctypes.CDLL(None)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: end with the one that waits
    if libc.prctl(38, 1, 0, 0, 0):  # PR_SET_NO_NEW_PRIVS
        return []
    if platform.machine() == "x86_64" and sys.maxsize > 2**32:
        program = b"".join(struct.pack("HBBI", *step) for step in filter_program())
        held = ctypes.create_string_buffer(program, len(program))
        header = struct.pack("HP", len(program) // 8, ctypes.addressof(held))
        pointer = ctypes.create_string_buffer(header, len(header))
        if libc.prctl(22, 2, ctypes.addressof(pointer), 0, 0) == 0:  # PR_SET_SECCOMP, a filter
            return ["network", "files", "processes"]
    if libc.unshare(0x50000000) == 0:  # new user and network namespaces
        return ["network"]
    return []


def filter_program() -> list[tuple[int, int, int, int]]:
    """Steps (instruction, jump if so, jump if not, number) that decide about one system call.

    Everything fails that is not known: no file is opened to be written, none is renamed, deleted
    or linked, no socket is made, no process is started, traced or signalled.
    """
    steps = [
        (_LOAD, 0, 0, 4),  # architecture
        (_EQUAL, 1, 0, _X86_64),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # number of the call
    ]
    for number in _ALLOWED.values():
        steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _PASS)]
    for number, argument in ((_OPEN, 1), (_OPENAT, 2)):
        steps += [
            (_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, 16 + 8 * argument),
            (_ANY_BIT, 0, 1, _TO_WRITE),
            (_RETURN, 0, 0, _FAIL | _PERMISSION),
            (_RETURN, 0, 0, _PASS),
        ]
    steps += [
        (_EQUAL, 0, 4, _CLONE),
        (_LOAD, 0, 0, 16),
        (_ANY_BIT, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _PASS),
        (_RETURN, 0, 0, _FAIL | _PERMISSION),
    ]
    for number, values in ((_IOCTL, _TERMINAL), (_FCNTL, _DESCRIPTOR)):
        steps += [(_EQUAL, 0, 2 + 2 * len(values), number), (_LOAD, 0, 0, 24)]
        for value in values:
            steps += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _PASS)]
        steps += [(_RETURN, 0, 0, _FAIL | _PERMISSION)]
    # Its arguments lie in memory, where a filter cannot look; the C library falls back to clone.
    steps += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _FAIL | _NO_CALL)]
    return [*steps, (_RETURN, 0, 0, _FAIL | _PERMISSION)]


def report(pipe: int, said: dict[str, object]) -> None:
    """One line of JSON to the one who waits."""
    os.write(pipe, json.dumps(said).encode() + b"\n")


if __name__ == "__main__":
    main()
