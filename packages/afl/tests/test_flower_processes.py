"""The real processes over loopback, watched for whom they talk to and for what they leave."""

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import psutil
import pytest

pytest.importorskip("flwr", reason="the extra `flower` is not installed")

from afl.classifier import AFLClassifier
from afl.federation import Federation
from afl.flower.environment import is_loopback, split_address
from afl.flower.processes import (
    RunFailed,
    free_port,
    join_command,
    run_app,
    serve_command,
    wait_for_port,
    write_connection,
)
from afl.head import LinearHead
from lipogram.analytic.datasets import digits
from lipogram.errors import InvalidSetting

ROWS, LABELS = digits()
MASKS = ["masked=true", "clip=70", "most-rows=1000", "classes=0,1,2,3,4,5,6,7,8,9"]
WATCH = '''"""Write down every address that this process turns to."""
import os, sys

def look(event, args):
    if event == "socket.connect":
        told = args[1]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        told = (args[0],)
    else:
        return
    line = f"{event} {told!r}\\n".encode()
    file = os.open(os.environ["AFL_WATCH"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, line)
    os.close(file)

sys.addaudithook(look)
'''


class Net:
    """Processes of one federation; all of them are gone afterwards, or the test fails."""

    def __init__(self, folder: Path):
        self.folder, self.mark, self.port = folder, uuid.uuid4().hex, free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.started: dict[str, subprocess.Popen] = {}
        (folder / "watch").mkdir()
        (folder / "watch/sitecustomize.py").write_text(WATCH)
        self.environment = os.environ | {
            "FLWR_HOME": str(folder / "home"),
            "AFL_MARK": self.mark,
            "AFL_WATCH": str(folder / "addresses"),
            "PYTHONPATH": os.pathsep.join(
                [str(folder / "watch"), os.environ.get("PYTHONPATH", "")]
            ),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, name, *words):
        """`afl WORDS…`, in the background."""
        log = open(self.folder / f"{name}.log", "ab")
        with log:
            self.started[name] = subprocess.Popen(
                [sys.executable, "-m", "afl", *map(str, words)],
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self.started[name]

    def call(self, *words, timeout=150):
        """`afl WORDS…`, waited for."""
        return subprocess.run(
            [sys.executable, "-m", "afl", *map(str, words)],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def serve(self, *words):
        process = self.start("server", "serve", "--port", self.port, *words)
        wait_for_port("127.0.0.1", self.port, alive=lambda: process.poll() is None)
        return process

    def log(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def wait_for(self, name, text, seconds=90, times=1):
        end = time.monotonic() + seconds
        while self.log(name).count(text) < times:
            assert time.monotonic() < end, f"{name} never said {text!r}:\n{self.log(name)[-3000:]}"
            time.sleep(0.1)

    def ours(self):
        """Every living process that was started by one of this federation's."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and process.environ().get("AFL_MARK") == self.mark:
                    found.append((" ".join(process.cmdline()), process))
        return found

    def stop(self):
        """End what was started, by its process id, and give helpers a moment to notice."""
        for process in self.started.values():
            if process.poll() is None:
                process.terminate()
        for process in self.started.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        end = time.monotonic() + 60
        while (left := self.ours()) and time.monotonic() < end:
            time.sleep(0.2)
        for _, process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        return [words for words, _ in left]

    def strangers(self):
        """Addresses off this machine that any process turned to."""
        lines = (self.folder / "addresses").read_text().splitlines()
        assert any("connect" in line for line in lines), "the watch saw nothing at all"
        here = {a.address for held in psutil.net_if_addrs().values() for a in held}
        known = {f"{n!r}" for n in here | {"localhost", "0.0.0.0", "::"}} | {"None"}
        unix = ("connect '", "connect b'")  # no network at all
        return sorted(
            {x for x in lines if not any(k in x for k in known) and not any(u in x for u in unix)}
        )


@pytest.fixture
def net(tmp_path):
    made = Net(tmp_path)
    yield made
    left = made.stop()
    assert not left, f"still running: {left}"


@pytest.fixture
def silos(tmp_path):
    """Files of three silos, and the rows in them."""
    parts = {name: slice(i, None, 3) for i, name in enumerate(("north", "south", "west"))}
    for name, part in parts.items():
        np.savez(tmp_path / f"{name}.npz", X=ROWS[part], y=LABELS[part])
    return parts


def off(folder, parts, clip=None):
    """How far a head is from that of pooled rows, relative."""
    head = LinearHead.load(folder / "head.st")
    X, y = (np.concatenate([all_of[part] for part in parts]) for all_of in (ROWS, LABELS))
    if clip:
        X = X * np.minimum(1, clip / np.linalg.norm(X, axis=1))[:, None]
    own = AFLClassifier(gamma=1.0).fit(X, y)
    order = [head.classes.index(c) for c in own.classes_.tolist()]
    return np.abs(head.weight.numpy()[:, order] - own.coef_.T).max() / np.abs(own.coef_).max()


def outcome(folder):
    return json.loads((folder / "outcome.json").read_text())


def test_two_nodes_answer_a_third_is_killed_and_nobody_talks_to_strangers(net, silos, tmp_path):
    begun = time.monotonic()
    net.serve("--insecure")
    for name in silos:
        words = ["join", net.address, "--insecure", "--name", name, "--data", f"{name}.npz"]
        net.start(name, *words)
    net.wait_for("server", "Activated node_id", times=3)
    settings = ["minimum-clients=2", "timeout=45", "evaluate=false"]
    options = [w for s in settings for w in ("--set", s)] + ["--out", tmp_path / "out"]
    run = net.start("run", "run", "--superlink", net.address, "--insecure", *options)
    net.wait_for("west", "train.stats message", seconds=180)
    net.started["west"].kill()
    net.started["west"].wait(20)  # a dead process that nobody waited for looks alive to its helpers
    assert run.wait(300) == 0, net.log("run")
    assert outcome(tmp_path / "out")["missing"] == {"west": "train.stats: no answer in time"}
    assert outcome(tmp_path / "out")["joined"] == ["north", "south"]
    assert off(tmp_path / "out", [silos["north"], silos["south"]]) < 1e-10
    assert net.stop() == []
    assert net.strangers() == []
    assert time.monotonic() - begun < 180


@pytest.mark.slow
def test_a_round_of_two_nodes_takes_less_than_two_minutes(net, silos, tmp_path):
    begun = time.monotonic()
    net.serve("--insecure")
    for name in ("north", "south"):
        net.start(name, "join", net.address, "--insecure", "--name", name, "--data", f"{name}.npz")
    done = net.call("run", "--superlink", net.address, "--insecure", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert off(tmp_path / "out", [silos["north"], silos["south"]]) < 1e-10
    assert net.stop() == []
    assert net.strangers() == []
    assert time.monotonic() - begun < 120


@pytest.mark.slow
def test_a_server_that_is_killed_goes_on_from_its_database(net, silos, tmp_path):
    database = ["--database", tmp_path / "state.db"]
    server = net.serve("--insecure", *database)
    join = ["join", net.address, "--insecure"]
    run = ["run", "--superlink", net.address, "--insecure"]
    for name in ("north", "south"):
        net.start(name, *join, "--name", name, "--data", f"{name}.npz")
    first = net.call(*run, "--out", tmp_path / "one")
    assert first.returncode == 0, first.stdout + first.stderr
    server.kill()
    server.wait()
    time.sleep(1)
    net.serve("--insecure", *database)
    net.start("west", *join, "--name", "west", "--data", "west.npz")
    more = ["--set", f"into={tmp_path / 'one'}", "--set", "minimum-clients=3", "--set", "wait=90"]
    second = net.call(*run, *more, "--out", tmp_path / "two")
    assert second.returncode == 0, second.stdout + second.stderr
    told = outcome(tmp_path / "two")
    assert (told["present"], told["joined"]) == (["north", "south"], ["west"])
    assert off(tmp_path / "two", list(silos.values())) < 1e-10
    assert Federation.load(tmp_path / "two/sum.st").n_rows == len(ROWS)


@pytest.mark.slow
def test_masks_over_tls_with_nodes_that_prove_who_they_are(net, silos, tmp_path):
    names = [w for name in [*silos, "stranger"] for w in ("--node", name)]
    made = net.call("keys", "keys", "--host", "127.0.0.1", "--host", "localhost", *names)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "keys/server.key").stat().st_mode & 0o077 == 0
    net.serve("--certificates", "keys", "--authenticate")
    trust = ["--root-certificate", "keys/ca.crt"]
    for name in silos:
        admitted = net.call("admit", f"keys/{name}.pub", "--superlink", net.address, *trust)
        assert admitted.returncode == 0, admitted.stdout + admitted.stderr
    for name in [*silos, "stranger"]:
        data = f"{name}.npz" if name in silos else "north.npz"
        own = ["--key", f"keys/{name}.key", "--data", data, "--release", "masked"]
        net.start(name, "join", net.address, "--name", name, *trust, *own)
    options = [w for s in ["minimum-clients=3", *MASKS] for w in ("--set", s)]
    run = ["run", "--superlink", net.address, "--out", tmp_path / "out", *options]
    done = net.call(*run, *trust, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    told = outcome(tmp_path / "out")
    assert told["masked"] is True
    assert told["joined"] == ["north", "south", "west"]
    assert "stranger" not in json.dumps(told)
    assert off(tmp_path / "out", list(silos.values()), clip=70.0) < 1e-10
    plain = net.call("run", "--superlink", net.address, "--insecure", "--out", tmp_path / "no")
    assert plain.returncode == 1  # the server speaks TLS only
    assert net.stop() == []
    assert net.strangers() == []


@pytest.mark.slow
def test_four_simulated_nodes_offline(net, tmp_path):
    pytest.importorskip("ray", reason="the extra `simulation` is not installed")
    settings = ["data=digits", "split=dirichlet", "minimum-rows=1", "minimum-clients=4"]
    options = [w for s in settings for w in ("--set", s)]
    done = net.call("run", "--simulate", 4, "--out", tmp_path / "out", *options, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcome(tmp_path / "out")["clients"] == 4
    assert off(tmp_path / "out", [slice(None)]) < 1e-10
    assert net.stop() == []
    assert net.strangers() == []


def test_connections_without_tls_stay_on_this_machine(net):
    for words in (
        ["serve", "--insecure", "--host", "0.0.0.0"],
        ["serve", "--insecure", "--host", "192.0.2.1"],
        ["join", "example.org:8000", "--insecure", "--name", "a", "--data", "digits"],
        ["run", "--superlink", "example.org:8000", "--insecure"],
        ["admit", "x.pub", "--superlink", "example.org:8000", "--insecure"],
    ):
        done = net.call(*words)
        assert done.returncode == 2, words
        assert "--insecure is for this machine only" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["serve"], 2, "choose one of --certificates"),
        (["serve", "--insecure", "--certificates", "keys"], 2, "choose one of"),
        (["serve", "--certificates", "nowhere"], 1, "there is no file nowhere/ca.crt"),
        (["join", "here", "--insecure", "--name", "a", "--data", "digits"], 2, "no address"),
        (["join", "127.0.0.1:1", "--insecure", "--name", "a", "--data", "gone"], 1, "no gone"),
        (["join", "127.0.0.1:1", "--name", 'a"b', "--data", "digits"], 2, "quotes"),
        (["run", "--set", "gama=1"], 2, "no setting 'gama'"),
        (["run", "--set", "gamma"], 2, "key=value"),
        (["run", "--set", "gamma=much"], 2, "'much'"),
        (["keys", "keys"], 2, "--host"),
        (["keys", "keys", "--node", "../up"], 2, "name of a key file"),
        (["app", "init", "a", "--name", "42"], 2, "name for an app"),
    ],
)
def test_bad_words_are_told_plainly(net, words, code, why):
    done = net.call(*words)
    assert (done.returncode, why in done.stderr) == (code, True), done.stderr


def test_keys_are_never_overwritten(net, tmp_path):
    for words in (["--host", "127.0.0.1"], ["--node", "north"]):
        assert net.call("keys", "keys", *words).returncode == 0
        before = {p.name: p.read_bytes() for p in (tmp_path / "keys").iterdir()}
        again = net.call("keys", "keys", *words)
        assert again.returncode == 2
        assert "is there already" in again.stderr
        assert {p.name: p.read_bytes() for p in (tmp_path / "keys").iterdir()} == before


def test_an_app_is_written_once_and_lists_every_setting(net, tmp_path):
    import tomllib

    from afl.flower.plan import Plan

    assert net.call("app", "init", "my app").returncode == 0
    project = tomllib.loads((tmp_path / "my app/pyproject.toml").read_text())
    assert project["project"]["name"] == "my-app"
    assert Plan.from_config(project["tool"]["flwr"]["app"]["config"]) == Plan()
    again = net.call("app", "init", "my app")
    assert again.returncode == 2
    assert "is there already" in again.stderr


def test_a_run_without_a_server_fails_in_time(tmp_path):
    with pytest.raises(RunFailed):
        run_app(superlink=f"127.0.0.1:{free_port()}", settings={}, insecure=True)


def test_command_lines(tmp_path):
    command = serve_command(host="127.0.0.1", port=9, insecure=True, database=tmp_path / "db")
    assert "--disable-runtime-dependency-installation" in command
    node = {"name": "a b", "data": "/x y.npz", "most-epsilon": 1.5, "image-size": 96}
    words = join_command("localhost:9", node=node, insecure=True)
    assert words[-1] == 'name="a b" data="/x y.npz" most-epsilon=1.5 image-size=96'
    write_connection(tmp_path, "127.0.0.1:9", insecure=True)
    assert 'address = "127.0.0.1:9"\ninsecure = true' in (tmp_path / "config.toml").read_text()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "localhost.example.org", ""])
def test_not_loopback(host):
    assert not is_loopback(host)


@pytest.mark.parametrize("address", ["", "a", "a:", ":1", "a:b", "a:0", "a:70000"])
def test_no_address(address):
    with pytest.raises(InvalidSetting, match="no address"):
        split_address(address)
