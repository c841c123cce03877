"""img-deploy: train or import an IMG checkpoint, export it, answer moment queries fast.

The public names are loaded on first use, so ``import img_deploy`` costs next to nothing:

>>> import img_deploy
>>> img_deploy.__version__
'0.1.0'
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "load_bundle": "img_deploy.runtime.predictor",
    "load_index": "img_deploy.runtime.library",
    "Predictor": "img_deploy.runtime.predictor",
    "Answer": "img_deploy.runtime.results",
    "Moment": "img_deploy.runtime.results",
    "ImgDeployError": "img_deploy.errors",
}

__all__ = ["Answer", "ImgDeployError", "Moment", "Predictor", "__version__", "load_bundle", "load_index"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'img_deploy' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
