"""The unified model: two experts over one sequence of text and images, rectified flow, and the generation loop."""
