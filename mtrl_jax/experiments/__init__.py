"""From a config to a run: the only floor that knows agents, environments and files."""
