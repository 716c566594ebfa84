"""What is recorded of a run, and the verdict on it."""
