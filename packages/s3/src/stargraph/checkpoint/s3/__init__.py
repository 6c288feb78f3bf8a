"""The S3 checkpoint store: durable, fenced runs with a bucket alone."""

from stargraph.checkpoint.s3._checkpointer import S3Checkpointer
from stargraph.checkpoint.s3._schema import RaceReport, UnsafeStoreWarning

__all__ = ["RaceReport", "S3Checkpointer", "UnsafeStoreWarning"]
