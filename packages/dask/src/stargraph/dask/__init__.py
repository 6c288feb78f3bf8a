"""Spreads runs over a Dask cluster: they are enqueued durably first, then executed as idempotent tasks."""

from stargraph.dask._fleet import Fleet, FleetRun

__all__ = ["Fleet", "FleetRun"]
