"""What the levels of the conformance kit ask for.

Not in `conformance_targets`, which every process of a run imports: the catalogue has all checks imported.
"""

from stargraph.checkpoint.conformance import catalogue

FULL_CAPABILITIES = {check.capability for check in catalogue()} - {None, "queues", "presence", "schedules"}
"""What a driver at level full declares at least."""
