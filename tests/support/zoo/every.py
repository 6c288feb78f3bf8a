"""The whole zoo: importing this puts every specimen into it."""

from support.zoo import capabilities, database, identity, lifecycle, listing, racing, reading, writing
from support.zoo.specimens import ZOO, Specimen

__all__ = ["MODULES", "ZOO", "Specimen"]

MODULES = (writing, reading, identity, listing, lifecycle, racing, capabilities, database)
