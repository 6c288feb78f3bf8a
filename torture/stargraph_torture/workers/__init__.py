"""A fleet of workers under fire: killed, skewed, deployed anew, and cut off from their store."""
