"""Checks after faults: of the store, of recorded histories, and of linearizability."""
