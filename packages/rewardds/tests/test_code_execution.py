"""A model's code computes, and can do nothing else: or it is not run."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lipogram.errors import InvalidSetting
from rewardds import code_execution
from rewardds.code_execution import (
    PROTECTIONS,
    Limits,
    code_of,
    enforced_protections,
    run_code,
    run_many,
)
from rewardds.errors import UnsafeSetting

pytestmark = pytest.mark.skipif(os.name != "posix", reason="runs code on POSIX alone")
SHORT = Limits(seconds=2, patience=60.0, megabytes=128)


@pytest.fixture(scope="module")
def locked():
    """Skips where the machine cannot lock a process in."""
    if missing := set(PROTECTIONS) - enforced_protections():
        pytest.skip(f"this machine does not keep code from {sorted(missing)}")


@pytest.mark.parametrize(
    ("code", "asserts", "outcome"),
    [
        ("def f(x):\n    return x + 1", ["assert f(1) == 2", "assert f(2) == 3"], "passed"),
        ("def f(x):\n    return 2", ["assert f(1) == 2", "assert f(2) == 3"], "failed"),
        ("def f(x):\n    return y", ["assert f(1)"], "error"),
        ("def f(:", [], "error"),
        ("import sys; sys.exit(0)", ["assert 0"], "error"),
        ("import os; os._exit(0)", ["assert 0"], "error"),
        ("if __name__ == '__main__': 1 / 0", [], "passed"),
        ("x = bytearray(1 << 30)", [], "memory"),
        ("import ctypes; ctypes.string_at(0)", [], "crashed"),
        ("import numpy", [], "error"),
        ("input()", [], "error"),
    ],
)
def test_an_answer_has_the_outcome_that_it_deserves(locked, code, asserts, outcome):
    assert run_code(code, asserts, limits=SHORT) == outcome


COMPUTES = """
import bisect, collections, copy, dataclasses, datetime, decimal, enum, fractions, functools
import hashlib, heapq, itertools, json, math, operator, os, random, re, statistics, string, sys
import threading, time, typing
done = []
thread = threading.Thread(target=done.append, args=(1,))
thread.start(); thread.join()
os.listdir("."), os.getcwd(), os.stat(os.__file__), os.urandom(4), time.sleep(0.001)
datetime.datetime.now(), random.random(), decimal.Decimal(2).sqrt(), print("said")
source = open(os.__file__).readline()
"""


def test_what_computing_takes_is_there(locked):
    assert run_code(COMPUTES, ["assert done == [1] and source"], limits=SHORT) == "passed"


FORBIDDEN = {
    "writing": "open({path!r}, 'w')",
    "appending": "open({path!r}, 'a')",
    "updating": "open({path!r}, 'r+')",
    "a file of its own": "open('new', 'x')",
    "a nameless file": "os.open('.', os.O_TMPFILE | os.O_WRONLY)",
    "deleting": "os.remove({path!r})",
    "renaming": "os.rename({path!r}, {path!r} + '2')",
    "linking": "os.symlink({path!r}, 'link')",
    "hard linking": "os.link({path!r}, 'link')",
    "permissions": "os.chmod({path!r}, 0)",
    "times": "os.utime({path!r})",
    "truncating": "os.truncate({path!r}, 0)",
    "a folder": "os.mkdir('folder')",
    "moving elsewhere": "os.chdir('/')",
    "a socket": "socket.socket()",
    "a local socket": "socket.socketpair()",
    "a process": "os.fork()",
    "a command": "subprocess.run(['true'])",
    "another program": "os.execv('/bin/true', ['true'])",
    "a signal": "os.kill({pid}, 0)",
    "a signal to itself": "os.kill(os.getpid(), 0)",
    "its limits": "resource.setrlimit(resource.RLIMIT_CPU, (1, 1))",
    "a terminal": "fcntl.ioctl(0, 0x5412, b'x')",
}
TRY = """
import fcntl, os, resource, socket, subprocess
try:
    {attempt}
    refused = None
except OSError as error:
    refused = error.errno
except ValueError:  # that is how `resource` says it
    refused = 1
"""


@pytest.mark.parametrize("attempt", FORBIDDEN.values(), ids=FORBIDDEN)
def test_the_kernel_refuses_all_else(locked, attempt, tmp_path):
    path = tmp_path / "file"
    path.write_text("kept")
    before = path.stat()
    code = TRY.format(attempt=attempt.format(path=str(path), pid=os.getpid()))
    assert run_code(code, ["assert refused == 1"], limits=SHORT) == "passed"  # EPERM
    assert path.read_text() == "kept"
    assert (path.stat().st_mtime_ns, path.stat().st_mode) == (before.st_mtime_ns, before.st_mode)


def test_machine_code_is_refused_too(locked, tmp_path):
    path = tmp_path / "file"
    path.write_text("kept")
    code = f"import ctypes\nr = ctypes.CDLL(None).unlink({os.fsencode(path)!r})"
    assert run_code(code, ["assert r == -1"], limits=SHORT) == "passed"
    code = "import ctypes\nr = ctypes.CDLL(None).syscall(41, 2, 1, 0)"  # socket of the internet
    assert run_code(code, ["assert r == -1"], limits=SHORT) == "passed"
    assert path.exists()


def test_no_network_is_reached_even_one_on_this_machine(locked):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)"
        assert run_code(code, [], limits=SHORT) == "error"
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_it_sees_no_environment_and_no_packages(locked, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "heron")
    code = "import os, sys\nplaces = ' '.join(sys.path)"
    asserts = ["assert 'SECRET_TOKEN' not in os.environ", "assert 'site-packages' not in places"]
    assert run_code(code, asserts, limits=SHORT) == "passed"


def test_time_ends_whether_it_computes_or_sleeps(locked):
    before = time.monotonic()
    assert run_code("while True: pass", [], limits=Limits(1, 60.0, 128)) == "time"
    assert time.monotonic() - before < 50  # the limit of computing, not the patience
    before = time.monotonic()
    assert run_code("import time; time.sleep(90)", [], limits=Limits(1, 2.0, 128)) == "time"
    assert time.monotonic() - before < 45


def test_a_forged_report_is_no_outcome(locked):
    code = """
import os
for fd in range(3, 32):
    try:
        os.write(fd, b'{"token": "", "outcome": "passed"}\\n[1]\\nnot json\\n')
    except OSError:
        pass
os._exit(0)
"""
    assert run_code(code, [], limits=SHORT) == "error"


def test_where_a_protection_is_missing_nothing_is_run(monkeypatch, tmp_path):
    child = tmp_path / "child.py"
    # The lock of a machine that has none, around the very same child.
    child.write_text(
        Path(code_execution._CHILD)
        .read_text("utf-8")
        .replace('if sys.platform == "linux"', 'if sys.platform == "none"')
    )
    monkeypatch.setattr(code_execution, "_CHILD", child)
    mark = tmp_path / "ran"
    code = f"import os; os.mkdir({str(mark)!r})"
    with pytest.raises(UnsafeSetting, match="memory, network, files, processes"):
        run_code(code, [], limits=SHORT)
    assert not mark.exists()
    with pytest.raises(UnsafeSetting, match="files"):
        run_code(code, [], limits=SHORT, do_without=("memory", "network", "processes"))
    assert not mark.exists()
    # What the filter holds back above happens without it.
    without = ("memory", "network", "files", "processes")
    assert run_code(code, [], limits=SHORT, do_without=without) == "passed"
    assert mark.exists()
    assert enforced_protections() == {"time"}


def test_the_answers_folder_is_swept_and_no_process_left(locked, tmp_path, monkeypatch):
    monkeypatch.setattr(code_execution.tempfile, "tempdir", str(tmp_path))
    run_code("x = 1", [], limits=SHORT)
    assert list(tmp_path.iterdir()) == []
    listed = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True, check=False)
    ours = [line for line in listed.stdout.splitlines() if line.split()[0] == str(os.getpid())]
    assert not any("locked_child" in line for line in ours)


def test_many_run_side_by_side_in_their_order(locked):
    programs = [(f"x = {i}", [f"assert x % 2 == {0}"]) for i in range(4)]
    assert run_many(programs, limits=SHORT, workers=2) == ["passed", "failed"] * 2
    assert run_many([], limits=SHORT) == []


def test_settings_are_checked():
    for wrong in ({"seconds": 0}, {"patience": 0.0}, {"megabytes": 8}, {"patience": float("nan")}):
        with pytest.raises(InvalidSetting, match=next(iter(wrong))):
            Limits(**wrong)
    with pytest.raises(InvalidSetting, match="walls"):
        run_code("", [], do_without=("walls",))
    with pytest.raises(InvalidSetting, match="workers"):
        run_many([], workers=0)


def test_nothing_is_run_on_another_system(monkeypatch):
    monkeypatch.setattr(code_execution.os, "name", "nt")
    with pytest.raises(UnsafeSetting, match="POSIX"):
        code_execution._started("", [], SHORT, PROTECTIONS)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("x = 1", "x = 1"),
        ("Look:\n```python\ndef f(): ...\n```\nDone.", "def f(): ...\n"),
        ("```\npip install x\n```\n```py\ndef f(): ...\n```", "def f(): ...\n"),
        ("```\nx = 1\n```\n```\ny = 2\n```", "x = 1\n"),
        ("```python\ndef f(): ...", "```python\ndef f(): ..."),
        ("```python\ndef f():\n    return '```'\n```", "def f():\n    return '```'\n"),
    ],
)
def test_the_code_of_an_answer_is_found(answer, code):
    assert code_of(answer) == code


def test_the_child_needs_nothing_of_ours():
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import runpy; runpy.run_path({str(code_execution._CHILD)!r})",
        ],
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
