import subprocess
import sys
import time

import pytest

from lipogram.errors import FolderInUse
from lipogram.files import locked

HOLD = """
import sys, time
from pathlib import Path
from lipogram.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time_and_a_killed_one_lets_go(tmp_path):
    path = tmp_path / "sum.st"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FolderInUse, match=r"sum\.st"), locked(path, seconds=0.1):
            pass
        holder.kill()
        holder.wait()
        start = time.perf_counter()
        with locked(path, seconds=30):
            assert time.perf_counter() - start < 10
        with locked(path, seconds=0.1):  # and so does one that is done
            pass
    finally:
        holder.kill()
        holder.stdout.close()
        holder.wait()
    assert not path.exists()
