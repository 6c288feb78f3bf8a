"""Measures the drivers beside those of other projects and beside the bare media."""
