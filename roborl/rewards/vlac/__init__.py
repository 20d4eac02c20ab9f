"""VLAC, a critic of pairs of pictures: its questions, its replies, and the conversion of its published weights."""
