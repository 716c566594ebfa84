"""Small helpers with no knowledge of the cluster: JSON, logs, tasks, waiting, back-off, files, values.

Each rule that more than one module follows (how to wait with a deadline, how to write a file atomically) is here once.
May import errors only. Any file can be read first; none depends on more than one or two of the others.
"""
