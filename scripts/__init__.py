"""Tools for whoever works on the pack."""
