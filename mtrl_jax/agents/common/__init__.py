"""What algorithms have in common: learning, acting and exploring, a function at a time."""
