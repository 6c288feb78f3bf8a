"""The code of the docs review: nodes, and what they are made of."""
