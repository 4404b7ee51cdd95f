"""The Metal backend: launch plans of the primitives, one module per family, and what runs them."""
