"""Judges, one a file; each is called with a prompt and an image and answers with a verdict or a failure."""
