"""Benchmarks of embedding quality."""
