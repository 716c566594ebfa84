"""The README.txt of a kit: what to type on a PC."""

from __future__ import annotations

from nodectl.kits.manifest import KitManifest
from nodectl.kits.platforms import Platform

_TEXT = """\
nodectl {release} for {platform}

All that a PC needs is in this folder: Python {python}, nodectl with its libraries, {etcd}. Nothing is fetched.

The first PC of a cluster (10.0.0.1 is its address):
  {sudo}{nodectl} host init --name wall --address 10.0.0.1
It installs this kit in {place} and prints the command for the other PCs:
  {sudo}{nodectl} host join 10.0.0.1 --token ...
{no_member}
Try it without installing anything:
  {nodectl} version

kit.json says what is in this kit. SHA256SUMS has the checksum of each file{check}.
The licences of all parts are in the folder licences.
"""


def readme_text(manifest: KitManifest, platform: Platform) -> str:
    """The text for a kit's platform."""
    is_windows = platform.is_windows
    return _TEXT.format(
        release=manifest.release,
        platform=manifest.platform,
        python=manifest.python,
        etcd=f"etcd {manifest.etcd}" if manifest.etcd else "but no etcd",
        sudo="" if is_windows else "sudo ",
        nodectl=".\\nodectl.cmd" if is_windows else "./nodectl",
        place="C:\\Program Files\\nodectl" if is_windows else "/opt/nodectl",
        no_member="" if manifest.etcd else "Without etcd this PC can be a node, not a member and not a master.\n",
        check="" if is_windows else ": sha256sum --quiet --check SHA256SUMS",
    )
