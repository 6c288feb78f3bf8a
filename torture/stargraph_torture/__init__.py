"""A fleet of worker processes, a nemesis that tries to make a store lose data, and an oracle that looks for it."""
