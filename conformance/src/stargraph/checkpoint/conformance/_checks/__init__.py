"""The checks, one module for each group; the group `deletion` has two, the other one is `survivors`."""
