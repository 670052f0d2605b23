"""A run while it goes on: loop, session, reports; knows no agent by name."""
