"""What keeps a test's processes on CPUs where there is a GPU: several ranks need one each, a forked process none."""

from __future__ import annotations

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
"""For the environment of a process that is yet to start."""
