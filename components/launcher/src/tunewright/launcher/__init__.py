"""From an experiment file to a running job on any cluster, watched to its end and recorded."""

import gc
import os

# A command is over in a moment, or waits for hours. Collecting garbage while modules load is a twelfth of its time.
gc.set_threshold(200_000)
# Our specs take no plugins of pydantic's; looking for some reads the metadata of every installed distribution.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
