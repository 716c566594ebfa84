"""The application that masterd runs: loading it, and the thread in which its code runs.

State and commands belong to the application. Its contract is `nodesdk.application`; the built-in one is
`nodesdk.scenes`. masterd calls it through the contract alone, and guards itself against handlers that raise or hang
(`worker.py`).
May import nothing of masterd. Read `contract.py` first.
"""
