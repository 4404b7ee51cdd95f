"""The software stand-in for Metal: compiles Metal Shading Language for the host, runs it on fibers, and checks it.

Nothing here is Apple's, and nothing here depends on mlxr: the kernels' tests, ``mlxr.metal_check`` and the Metal
runtime use it. What it cannot know, Apple's compiler and hardware, is listed in ``docs/metal.md``.
"""
