"""What every reward model that is trained here shares: recorded episodes, labels, frame encoders, held-out figures."""
