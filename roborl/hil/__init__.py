"""Who is in command: policy, person, or nobody."""
