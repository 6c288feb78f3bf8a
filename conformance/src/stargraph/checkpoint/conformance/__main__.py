"""`python -m stargraph.checkpoint.conformance`: the same as the command `stargraph-conformance`."""

from stargraph.checkpoint.conformance._cli import main

main()
