"""`python -m agent` is `ratchet`."""

from agent.cli.app import main

main()
