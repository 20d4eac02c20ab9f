"""Relabelling of recorded episodes: the words of each stage, its replies, and the rules that rows keep."""
