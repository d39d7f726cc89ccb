"""What is known of the third-party locks: whether they are what was asked for, and which pins are known bad."""
