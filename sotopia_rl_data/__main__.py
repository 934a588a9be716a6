"""`python -m sotopia_rl_data …`: the command line."""

from sotopia_rl_data.cli.program import main

main()
