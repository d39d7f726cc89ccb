"""Where caches are: directories and URLs, locks, what is used, what can go."""
