"""The SQLite checkpoint store."""
