"""The Hydra configs of the `lightning` command: one file a verb, one folder a group."""
