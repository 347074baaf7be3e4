"""From scene graph to trajectory to shard to batch: worlds, builders, storage."""
