"""Replacing the leader on purpose, and measuring what a client sees of it."""
