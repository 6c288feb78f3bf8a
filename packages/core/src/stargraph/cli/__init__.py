"""The command line: run, resume and look into durable graphs."""

from stargraph.cli._app import main

__all__ = ["main"]
