"""The steps of ``img_deploy.benchmarks.gpu``. Need torch, Triton and NumPy, and nothing else."""
