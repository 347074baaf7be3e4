"""What every test runs under: one thread, and types and shapes checked at each call."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads than cores make a tiny model a hundred times slower

import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)
install_import_hook("brushwork", "beartype.beartype")  # before the first brushwork import
