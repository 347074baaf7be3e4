"""Worlds: where scenes are sampled, drawn and recognised again."""
