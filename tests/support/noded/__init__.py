"""Runs parts of noded for tests: its agent, one driver, and whole noded processes."""
