"""Benchmarks of mlxr for asv: one question per benchmark, parameters for dtype and size."""
