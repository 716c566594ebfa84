"""Small helpers without any logic of the cluster: JSON, logs, tasks, waiting, back-off, files, values.

A rule that several modules follow, such as how to write a file atomically, is implemented once, in this package.
May import errors only. The modules can be read in any order; each depends on at most two of the others.
"""
