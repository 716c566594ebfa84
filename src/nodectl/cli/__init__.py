"""The command line `nodectl`: global options, the session with a cluster, and one module for each command.

Each start of `nodectl` imports these modules and that of the called command, and must be quick on a small PC. So none
of them imports etcd, HTTP, the models or rich at its top level.

May import every other package of nodectl. Read `root.py` first.
"""
