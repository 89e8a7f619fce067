"""Measures costs at very different sizes, and compares the growth of each cost with the growth of its work."""
