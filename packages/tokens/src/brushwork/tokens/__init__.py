"""What a sample is: trajectories, their text grammar, segments, packing and the attention rule."""
