"""The room of the command line: one file per command, nothing heavy imported before a command runs."""
