"""A lab of PCs, each with a real systemd as process 1, on one switch: to try services, installers and reboots for real.

| module | |
| --- | --- |
| `lab.py` | `Lab`: the namespaces that hold everything, the switch and the PCs |
| `pc.py` | `Pc`: power, cable, disk, and commands that run on it |
| `image.py` | what a PC's disk has in addition to this machine's root file system |
| `host_cluster.py` | a cluster made by `nodectl host`, and its operator |
| `__main__.py` | the lab from a shell: `python -m tests.lab --help` |

A PC's disk is an overlay over this machine's root file system, in memory: it survives a power cut and a reboot, and is
gone with the lab. Needs root, systemd, iproute2 and util-linux. What is not real: there is one kernel, so a power cut
loses nothing that was written without fsync; controllers of cgroups that this machine uses in version 1 limit nothing.
"""
