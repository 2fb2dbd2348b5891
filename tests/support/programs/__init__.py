"""Generated TFF programs: source text, a NumPy evaluation of the same program, and both ways to run it."""
