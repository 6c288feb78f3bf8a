"""Pages on the runs of a store: what ran, what waits, what changed; read-only unless writing is asked for."""

from stargraph.ui._app import create_app

__all__ = ["create_app"]
