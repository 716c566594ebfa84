"""noded: the agent on every node. It watches the node's desired state in etcd and reconciles the node with it.

Start reading at `node.py`, which builds the parts and shows what wakes what. Each package imports only those below it:

    actions        one-shot actions, such as a restart: each starts at most once, across crashes of noded
    reconcile      the loop: inspect, compare with the desired state, plan (pure), apply
    program_log    shows the program's log to the leader, over a connection of its own
    registration   the claim of the node, its status, and a watch on one key
    drivers        the contract of a driver, the built-in drivers, and the conformance test
"""
