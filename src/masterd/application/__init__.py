"""The application that masterd runs: loading it, and the thread in which its code runs.

The application defines the commands and the documents. The contract of an application is `nodesdk.application`; the
built-in application is `nodesdk.scenes`. masterd calls an application only through the contract. It protects
itself from handlers that raise or hang (`worker.py`).
May import no other package of masterd. Read `contract.py` first.
"""
