"""The S3 checkpoint store: durable, fenced runs with a bucket alone."""

from stargraph.checkpoint.s3._bootstrap import RaceReport, UnsafeStoreWarning
from stargraph.checkpoint.s3._driver import S3Checkpointer

__all__ = ["RaceReport", "S3Checkpointer", "UnsafeStoreWarning"]
