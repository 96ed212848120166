"""recdistill distils committees of large recommender models into one small student."""

__version__ = "0.1.0"
