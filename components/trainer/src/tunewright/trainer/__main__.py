"""`python -m tunewright.trainer`: how the processes of a node are started."""

from tunewright.trainer.cli import main

main()
