"""The commands of the env-builder, a module each: imported when one is chosen."""
