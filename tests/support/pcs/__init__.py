"""PCs for tests, on which `nodectl host` makes a cluster."""
