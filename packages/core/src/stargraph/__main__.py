"""Run the command line: `python -m stargraph`."""

import os
import sys

if __name__ == "__main__":
    if not sys.flags.safe_path and sys.path[:1] in ([""], [os.getcwd()]):  # noqa: PTH109  # pathlib is not needed for it
        # Python puts the current folder first: a module there would take the place of any that we import.
        del sys.path[0]
    from stargraph.cli import main

    main()
