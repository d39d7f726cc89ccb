"""Models of the hub at a commit: fetched, verified, and laid out so that an image finds them without a network."""
