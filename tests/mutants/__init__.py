"""`make mutants`: plants faults in the protocol, one at a time, and expects for each that a named test fails.

`lists/*.toml` lists the faults. Each replaces one piece of text in one file of src, in a copy of the tree.
"""
