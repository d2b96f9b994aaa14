"""`python -m aefocl` is the command `aefocl`."""

from aefocl.cli import main

main()
