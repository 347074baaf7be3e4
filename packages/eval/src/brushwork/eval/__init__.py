"""Evaluation: prompts → trajectories on disk → verdicts → a report; no step loads what an earlier one needed."""
