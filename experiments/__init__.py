"""Complete configurations, one file per stage: numbers only, no jax."""
