"""Runs jobs as experiments of Beaker, through its own client."""
