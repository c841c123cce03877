"""The parts of ``img_deploy.benchmarks.gpu``. Needs torch, Triton and NumPy, and nothing else."""
