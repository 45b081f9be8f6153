"""Follows what was sent until the chain can no longer undo it."""
