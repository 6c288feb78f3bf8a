import sys

from stargraph_bench._cli import main

if __name__ == "__main__":
    sys.exit(main())
