"""What runs on the cluster itself: with its own Python 3.8 or later, and nothing but the standard library."""
