"""`python -m agent` is `ratchet`."""

from agent.cli import main

main()
