"""The command line `nodectl`: the root with its global options, the session with a cluster, and the commands.

Start-up must be quick on a small PC: nothing at the top level of a module here imports etcd, HTTP, the models or rich.
May import every other package of nodectl. Read `root.py` first.
"""
