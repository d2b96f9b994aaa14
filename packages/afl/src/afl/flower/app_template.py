"""A Flower app that runs AFL: written for a person to change, or to a scratch folder to run."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

from afl.flower.plan import Plan
from lipogram.errors import InvalidSetting
from lipogram.files import write_atomically

CLIENT = '''"""What every node runs. Nodes hold their data: `afl join … --data PATH`."""

from afl.flower.client_app import app

__all__ = ["app"]
'''

SERVER = '''"""What the server runs: one exact round."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from afl.flower.federate import federate
from afl.flower.plan import Plan

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Sum what the nodes send, solve, and say who was missing."""
    done, outcome = federate(grid, Plan.from_config(context.run_config))
    print(f"{outcome['clients']} clients, accuracy {outcome['accuracy']}")
    for name, why in {**outcome["missing"], **outcome["refused"]}.items():
        print(f"without {name}: {why}")
'''

README = """# {name}

A federation by `afl`: one round, and the head that pooling all rows would give.

```
afl run . --simulate 4 --set data=digits          # on this machine, four nodes
afl serve                                         # at the server
afl join SERVER:8000 --name north --data rows.npz # at each node
afl run . --superlink SERVER:8000                 # from anywhere that reaches the server
```

`pyproject.toml` lists every setting under `[tool.flwr.app.config]`; `--set key=value` changes one.
"""


def write_app(folder: Path, *, name: str = "", plan: Plan | None = None) -> list[Path]:
    """Write a ready app: ``pyproject.toml``, two modules, and a README.

    Args:
        folder: where to; nothing in it is overwritten.
        name: of the app; the folder's by default.
        plan: defaults of its settings.

    Raises:
        InvalidSetting: a file lies there already, or the name has no letter.
    """
    called = re.sub(r"[^a-z0-9]+", "-", (name or folder.resolve().name).lower()).strip("-")
    if not called or not called[0].isalpha():
        raise InvalidSetting(f"{name or folder.name!r} gives no name for an app: use --name")
    package = called.replace("-", "_") + "_app"
    files = {
        "pyproject.toml": _project(called, package, plan or Plan()),
        "README.md": README.format(name=called),
        f"{package}/__init__.py": f'"""The app {called}."""\n',
        f"{package}/client_app.py": CLIENT,
        f"{package}/server_app.py": SERVER if plan is None else _plain_server(),
    }
    if there := [name for name in files if (folder / name).exists()]:
        raise InvalidSetting(f"{folder / there[0]} is there already: choose an empty folder")
    for relative, text in files.items():
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / relative, text.encode())
    return [folder / relative for relative in files]


def _plain_server() -> str:
    return (
        '"""What the server runs."""\n\nfrom afl.flower.server_app import app\n\n'
        '__all__ = ["app"]\n'
    )


def _project(called: str, package: str, plan: Plan) -> str:
    settings = "\n".join(f"{key} = {json.dumps(v)}" for key, v in plan.to_config().items())
    return f"""[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{called}"
version = "1.0.0"
description = "A federation by afl"
license = "Apache-2.0"
# Nodes and server have afl installed already; nothing is installed when a run begins.
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "afl"
afl-version = "{version("lipogram-afl")}"

[tool.flwr.app.components]
serverapp = "{package}.server_app:app"
clientapp = "{package}.client_app:app"

[tool.flwr.app.config]
{settings}
"""
