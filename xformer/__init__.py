"""xformer: the small, exact, complete Transformer research codebase in JAX/Flax."""
