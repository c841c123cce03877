"""TensorRT engines against the eager fp32 network."""

from pathlib import Path

from img_deploy.errors import VerificationError
from img_deploy.export.samples import drawn_samples
from img_deploy.export.verify import Row, compare, in_run_order, results
from img_deploy.runtime.backends.tensorrt import backend as tensorrt_backend
from img_deploy.runtime.backends.tensorrt.edition import FULL, Edition
from img_deploy.runtime.backends.torch import backend as torch_backend
from img_deploy.runtime.bundle import Bundle

KEPT = "the bundle is whole and answers with `--backend onnxruntime`"


def verified(bundle: Bundle, folder: Path, edition: Edition = FULL, seed: int = 0) -> list[Row]:
    """Rows of the verification table for the engines of a bundle, on drawn samples of many lengths and batches.

    Args:
        bundle: opened in the precision of the engines; folder: what it is called in messages.

    Raises:
        VerificationError: an engine is farther from the eager fp32 network than its precision may be.
    """
    precision = bundle.manifest.precision
    bundle = Bundle.open(bundle.folder).in_precision(precision)
    samples = in_run_order(drawn_samples(bundle.manifest.model, bundle.vocabulary(), seed))
    reference = results(torch_backend.open_backend("cpu", bundle, None), samples, batch_size=1)
    backend = tensorrt_backend.open_backend("cuda", bundle, None, edition)
    sizes = {graph: (bundle.folder / plan).stat().st_size for graph, plan in backend.plans.items()}
    try:
        rows = compare(backend, samples, reference, sizes)
    finally:
        backend.close()
    if wrong := [row for row in rows if not row.passed]:
        parts = [f"{row.graph} differs by {row.largest:.2g}" for row in wrong]
        raise VerificationError(
            f"{folder}: the {precision} engines do not agree with the eager fp32 network ({', '.join(parts)}); "
            f"they were not added, and {KEPT}; try --plugins off to see whether a kernel is at fault"
        )
    return rows
