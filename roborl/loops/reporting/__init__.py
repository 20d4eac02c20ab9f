"""What a demonstration run leaves for people: figures, films and the page."""
