"""The one way to read and write runs on any store: `stargraph.runtime.dispatch`.

A run's `runtime_hash` is something else: the fingerprint of the code of its nodes.
"""
