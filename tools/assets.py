"""Bring what tests read and no demo needs into the cache: `python tools/assets.py NAME ...`.

What cannot be had is named, and no failure: its tests are skipped, and say so.
"""

import sys

from lipogram.assets import get
from lipogram.errors import MissingAsset


def main(names: list[str]) -> int:
    """Fetch the assets named; returns the exit code, always 0."""
    for name in names:
        try:
            print(f"{name}: {get(name).name}")
        except MissingAsset as error:
            print(f"{name}: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
