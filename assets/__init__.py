"""What exists: one folder per index or agent, each with a defs.yaml a non-programmer can read."""
