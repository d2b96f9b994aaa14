"""Whether code that a model wrote passes assertions, tried in a process that is locked in.

A model's code may do anything: this is never done unless asked for. Each answer runs in an
interpreter of its own without the installed packages, in an empty folder, with an empty
environment, and under limits of time and memory. On Linux on x86-64 a filter of system calls
(seccomp) lets it compute and read files and nothing else; elsewhere less holds, and nothing is run
until the caller says without what.

What it does not do: hide files that may be read (nothing carries them out but one outcome), or
keep an answer that sets out to deceive from passing assertions in its own process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lipogram.errors import InvalidSetting
from rewardds.errors import UnsafeSetting

PROTECTIONS = ("time", "memory", "network", "files", "processes")
"""What an answer is kept from: running on, filling the memory, the network, changing files, and
starting or signalling processes."""

Outcome = Literal["passed", "failed", "error", "time", "memory", "crashed"]
"""Of an answer: "failed" an assertion, "error" raised anything else or ended the run by itself."""

_CHILD = Path(__file__).with_name("locked_child.py")
_MOST_REPORTED = 1 << 16
_BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_DEFINES = re.compile(r"^\s*(?:async\s+def|def|class)\s", re.MULTILINE)


@dataclass(frozen=True)
class Limits:
    """What one answer may use.

    Attributes:
        seconds: of computing, whole.
        patience: seconds it may take in all, asleep or not.
        megabytes: of address space; on Linux.

    Raises:
        InvalidSetting: fewer than 1 second, or 64 MB, or no patience.
    """

    seconds: int = 5
    patience: float = 15.0
    megabytes: int = 512

    def __post_init__(self) -> None:
        if self.seconds < 1 or self.megabytes < 64 or not 0 < self.patience < float("inf"):
            raise InvalidSetting(
                f"seconds {self.seconds}, patience {self.patience}, megabytes {self.megabytes}: "
                "they must be at least 1, above 0 and finite, and at least 64"
            )


LIMITS = Limits()


def enforced_protections(limits: Limits = LIMITS) -> frozenset[str]:
    """Which of `PROTECTIONS` hold on this machine, found out by locking a process that runs none.

    Raises:
        UnsafeSetting: a system without POSIX processes.
    """
    return frozenset(_started("", [], limits, PROTECTIONS).enforced)


def run_code(
    code: str,
    asserts: Sequence[str],
    *,
    limits: Limits = LIMITS,
    do_without: Collection[str] = (),
) -> Outcome:
    """Run code, then assertions in its names.

    Args:
        code: of the standard library alone.
        asserts: lines of Python.
        limits: on each run.
        do_without: protections that need not hold; on machines that cannot give them.

    Raises:
        UnsafeSetting: a protection that does not hold here and that nobody renounced; the code was
            not run.
        InvalidSetting: a protection of another name.
    """
    if unknown := set(do_without) - set(PROTECTIONS):
        raise InvalidSetting(
            f"there is no protection {', '.join(sorted(unknown))}: {', '.join(PROTECTIONS)}"
        )
    required = [name for name in PROTECTIONS if name not in do_without]
    run = _started(code, list(asserts), limits, required)
    if missing := [name for name in required if name not in run.enforced]:
        raise UnsafeSetting(
            f"this machine cannot keep a model's code from {', '.join(missing)}, so it was not "
            "run: run it in a container or on Linux on x86-64, or name what you do without"
        )
    return run.outcome


def run_many(
    programs: Sequence[tuple[str, Sequence[str]]],
    *,
    limits: Limits = LIMITS,
    do_without: Collection[str] = (),
    workers: int = 1,
) -> list[Outcome]:
    """:func:`run_code` for every (code, asserts), several at a time.

    Raises:
        UnsafeSetting, InvalidSetting: as :func:`run_code`, or `workers` below 1.
    """
    if workers < 1:
        raise InvalidSetting(f"workers is {workers}: it must be at least 1")
    with ThreadPoolExecutor(workers) as pool:
        futures = [
            pool.submit(run_code, code, asserts, limits=limits, do_without=do_without)
            for code, asserts in programs
        ]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def code_of(answer: str) -> str:
    """The code in an answer: its first fenced block that defines something, else the first block.

    Without a block, all of it.
    """
    blocks: list[str] = _BLOCK.findall(answer)
    defining = [block for block in blocks if _DEFINES.search(block)]
    return (defining or blocks or [answer])[0]


@dataclass(frozen=True)
class _Run:
    outcome: Outcome
    enforced: tuple[str, ...]


def _started(code: str, asserts: list[str], limits: Limits, required: Sequence[str]) -> _Run:
    if os.name != "posix":
        raise UnsafeSetting("a model's code runs only where processes can be limited: on POSIX")
    token = secrets.token_hex(16)
    ours, theirs = os.pipe()
    with open(ours, "rb") as pipe, tempfile.TemporaryDirectory(prefix="lipogram-") as folder:
        job = {
            "code": code,
            "asserts": asserts,
            "required": list(required),
            "memory": limits.megabytes << 20,
            "seconds": limits.seconds,
            "pipe": theirs,
            "token": token,
        }
        try:
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", str(_CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd=folder,
                pass_fds=(theirs,),
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        try:
            child.communicate(json.dumps(job).encode(), timeout=limits.patience)
            late = False
        except subprocess.TimeoutExpired:
            late = True
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        said = _objects(pipe.read(_MOST_REPORTED))
    enforced = tuple(said[0].get("enforced", ())) if said else ()
    for line in said[1:]:
        if line.get("token") == token:
            return _Run(line["outcome"], enforced)
    if late or child.returncode == -signal.SIGXCPU:
        return _Run("time", enforced)
    return _Run("error" if child.returncode >= 0 else "crashed", enforced)


def _objects(reported: bytes) -> list[dict[str, Any]]:
    """The lines that are objects: the answer may have written to the pipe too."""
    found = []
    for line in reported.split(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(line)
            if isinstance(value, dict):
                found.append(value)
    return found
