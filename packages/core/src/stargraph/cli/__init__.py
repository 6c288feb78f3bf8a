"""The command line: run, resume and look into durable graphs."""

from stargraph.cli._main import main

__all__ = ["main"]
