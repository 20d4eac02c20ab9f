"""From recorded episodes to a reward model: marks, training, adaptation, held-out figures."""
