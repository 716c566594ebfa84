"""What must be true after faults: checks of the store, of recorded histories, and of linearizability."""
