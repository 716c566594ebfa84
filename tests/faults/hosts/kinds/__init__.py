"""The kinds of faults that can be injected into hosts, by name."""
