"""The kinds of faults that can be done to hosts, by name."""
