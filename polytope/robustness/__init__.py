"""Robustness: what a region proves, and the search beyond it."""
