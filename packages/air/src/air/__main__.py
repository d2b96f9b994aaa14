"""`python -m air` is the command `air`."""

from air.cli import main

main()
