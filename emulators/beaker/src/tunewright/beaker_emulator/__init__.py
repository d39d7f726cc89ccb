"""A server that stands in for Beaker's on one machine, for tests and for trying plans."""
