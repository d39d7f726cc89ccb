"""What a training will take, before it starts: memory and time."""
