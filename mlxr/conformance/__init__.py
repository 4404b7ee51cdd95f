"""Conformance: mlxr's CPU backend against upstream MLX, and backend against backend.

``python -m mlxr conformance`` runs it. From the declarations of the ops come cases (``cases``); each runs on two sides
in processes of their own (``engine``, ``worker``), or is looked up in what upstream answered elsewhere (``golden``).
The answers are compared (``compare``), differences looked up among the declared ones (``exceptions``), and all of it
counted (``suite``) and reported (``report``, ``program``). ``parity`` asks the same of more backends.

Nothing of mlxr imports this package but its command line.
"""
