"""The client processes of a run, and their control by the run."""
