"""A reward model from a few demonstrations: steps discovered in a frozen network's features, and recognised by some of them."""
