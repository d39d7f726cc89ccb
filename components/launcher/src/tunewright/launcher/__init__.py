"""From an experiment file to a running job on any cluster, watched to its end and recorded."""

import atexit
import gc
import os

# A command is over in a moment, or waits for hours. Looking for garbage while modules load, and in all that they were
# when it is over, would be a fifth of the moment.
gc.set_threshold(200_000)
atexit.register(gc.freeze)
# Our specs take no plugins of pydantic's; looking for some reads the metadata of every installed distribution.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
