"""A small judge of hops, trained from scratch: it looks at pairs of moments and at pictures of start and goal."""
