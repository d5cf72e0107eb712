"""Measurements on the thoughts of a checkpoint."""
