"""One typed job description. Every setting and its default is in this package, and nowhere else."""

from recdistill.config.job import Job

__all__ = ["Job"]
