"""TensorRT for RTX on the engines of a bundle: GeForce and RTX cards from Turing on, and A100. Not yet run on a GPU."""

from functools import partial

from img_deploy.runtime.backends.tensorrt import backend
from img_deploy.runtime.backends.tensorrt.edition import RTX

unavailable = partial(backend.unavailable, edition=RTX)
open_backend = partial(backend.open_backend, edition=RTX)
