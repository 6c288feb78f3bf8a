"""The entry point: imports nothing, so that Ctrl-C is answered while the rest is imported."""

import sys


def main() -> None:
    """Run the command line of this process, and exit with its code."""
    try:
        # It takes a while, and a person may press Ctrl-C meanwhile; once a command runs, it stops in its own way.
        from stargraph.cli._app import main as run_command_line

        run_command_line()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        raise SystemExit(130) from None
