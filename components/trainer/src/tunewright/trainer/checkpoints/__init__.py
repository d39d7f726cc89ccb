"""What survives a crash: writing it, finding it, going on from it."""
