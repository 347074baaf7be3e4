"""The builders of training subsets, one a file; each makes one trajectory a call."""
