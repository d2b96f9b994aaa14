"""`python -m ftunlearn` is the command `ftunlearn`."""

from ftunlearn.cli import main

main()
