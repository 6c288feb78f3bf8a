"""Run the command line: `python -m stargraph.cli`."""

from stargraph.cli import main

if __name__ == "__main__":
    main()
