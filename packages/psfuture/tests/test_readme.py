"""The README's example prints what the README says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lipogram import assets

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_the_example_prints_what_is_printed_there(tmp_path):
    lacking = [name for name in ("bergamot-enpt", "smollm2") if assets.find(name) is None]
    if lacking:
        pytest.skip(f"no {lacking[0]} here: `psfuture demo` brings it")
    pattern = r"```python\n(.*?)```\n\n```\n(.*?)```"
    code, printed = re.search(pattern, README.read_text(encoding="utf-8"), re.DOTALL).groups()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == printed
