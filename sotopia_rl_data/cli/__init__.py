"""The command line: one file a family of commands, and the table that finds them (`program.py`)."""
