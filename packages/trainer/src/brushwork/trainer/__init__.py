"""Training with Lightning, and the `lightning` command."""
