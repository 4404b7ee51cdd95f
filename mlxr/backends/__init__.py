"""Whoever executes primitives: the contract, the registry, and one module per backend."""
