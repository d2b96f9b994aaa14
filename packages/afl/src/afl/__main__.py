"""`python -m afl` is the command `afl`."""

from afl.cli import main

main()
