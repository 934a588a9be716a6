"""`python cli.py …` in a clone: the program that an installation calls `sotopia-rl-data`."""

from sotopia_rl_data.cli.program import main

if __name__ == "__main__":
    main()
