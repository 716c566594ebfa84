"""Runs with heartbeats that take every branch of the protocol, and single commits disturbed at a bad moment."""
