"""A page on which a person watches a drawing grow and takes part in it: `lightning studio`."""
