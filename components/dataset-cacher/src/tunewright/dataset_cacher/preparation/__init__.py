"""From sources to the files of a cache: parts encoded by processes, put into their order, packed, counted."""
