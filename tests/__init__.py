import os

# Tests and their processes compute in one thread, or in as many as this says.
THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))
