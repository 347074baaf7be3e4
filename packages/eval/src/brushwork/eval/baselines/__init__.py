"""Baselines: samplers to compare with, one a file; a one-shot model is a one-image trajectory."""
