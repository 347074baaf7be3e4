"""What was asked and whether it is there: scene graphs, their difference, feedback in words, judges."""
