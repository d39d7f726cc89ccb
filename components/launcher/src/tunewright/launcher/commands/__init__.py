"""One module for each group of commands; imported when a command of it is called."""
