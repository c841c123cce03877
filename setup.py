"""Five top-level folders install as one package: see [tool.setuptools] notes in pyproject.toml."""

from setuptools import find_packages, setup

FOLDERS = ("export", "kernels", "training", "benchmarks")

packages = ["img_deploy", *(f"img_deploy.{name}" for name in find_packages("img_deploy"))]
for folder in FOLDERS:
    packages += [f"img_deploy.{folder}", *(f"img_deploy.{folder}.{name}" for name in find_packages(folder))]

setup(
    packages=packages,
    package_dir={"img_deploy": "img_deploy", **{f"img_deploy.{folder}": folder for folder in FOLDERS}},
    package_data={"": ["*.json", "py.typed"], "img_deploy.server.page": ["*.html", "*.css", "*.js"]},
)
