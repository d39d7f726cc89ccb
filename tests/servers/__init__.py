"""Real servers that tests start, or need: a container engine, registries."""
