"""Sources of the kernels.

They are compiled once per instruction set, into ``mlxr.cpu.<isa>``; nothing is imported here.
"""
