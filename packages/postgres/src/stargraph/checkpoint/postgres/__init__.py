"""The PostgreSQL checkpoint store: many machines share one database."""

from stargraph.checkpoint.postgres._checkpointer import PostgresCheckpointer

__all__ = ["PostgresCheckpointer"]
