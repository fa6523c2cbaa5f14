"""Workers, one module each; those of peers run in the peer's environment and import neither JAX nor jaxmeta for it."""
