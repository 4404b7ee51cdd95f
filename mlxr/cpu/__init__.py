"""The CPU kernels, one set per instruction set, and the modules that execute primitives on them."""
