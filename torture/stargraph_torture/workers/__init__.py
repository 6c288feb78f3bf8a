"""A fleet of workers under fire: killed, skewed, redeployed, and cut off from their store."""
