"""Adapting a vision-language judge to one's own task: episodes become questions with known answers, and it learns them."""
