"""LangGraph's checkpoints in a Stargraph store: small, tamper-evident, on SQLite, PostgreSQL or S3."""

from stargraph.langgraph._messages import ThreadMessage, thread_messages
from stargraph.langgraph._move import MoveReport, copy_threads
from stargraph.langgraph._saver import StargraphSaver

__all__ = ["MoveReport", "StargraphSaver", "ThreadMessage", "copy_threads", "thread_messages"]
