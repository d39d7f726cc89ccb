"""Source files to rows: found, opened, counted, cut into parts, read, filtered, sampled."""
