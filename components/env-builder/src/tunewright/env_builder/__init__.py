"""From a commit to an environment: built once, cached by what decides it, verified, identified by digest."""
