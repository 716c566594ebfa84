"""A program that does nothing until it is ended: `python -m tests.faults.pause`."""

import signal

if __name__ == "__main__":
    signal.pause()
