"""Unit tests of nodectl.kits."""
