"""noded for tests: its agent, its drivers, and whole noded processes."""
