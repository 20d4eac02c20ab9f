"""What ``roborl check`` says: what this computer has, and what fits on its cards."""
