"""noded: the program on every node. It keeps the node in its desired state, which it watches in etcd itself.

Start reading at `daemon.py`, which reads the settings and wires the parts. Each package imports only those below it:

    actions        things to do once, such as a restart: begun at most once, whoever restarts meanwhile
    reconcile      the loop: inspect, compare with the desired state, plan (pure), apply
    registration   the claim of the node, its status, and following a key
    drivers        the contract of a driver, the built-in drivers, and the conformance test
"""
