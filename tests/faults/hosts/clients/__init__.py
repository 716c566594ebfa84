"""The client processes of a run, and how the run sees them."""
