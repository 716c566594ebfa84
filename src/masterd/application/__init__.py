"""The application: its contract, the built-in one, and the thread in which its code runs.

State and commands belong to the application. masterd calls it through `contract.py` alone and guards itself against
handlers that raise or hang (`worker.py`).
May import nothing of masterd. Read `contract.py` first.
"""
