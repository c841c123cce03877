"""A synthetic dataset whose audio is noise in some of its videos: what audio that does not match costs."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np

from img_deploy.errors import InputError
from img_deploy.training.synthetic.folder import new_folder
from img_deploy.training.synthetic.queries import SIDECAR, read_synthetic, with_noise, write_record
from img_deploy.training.synthetic.scenes import stream
from img_deploy.training.synthetic.signals import as_bytes, noise_like


def replace_audio_with_noise(folder: Path, out: Path, share: float, seed: int = 0, overwrite: bool = False) -> int:
    """Copy a synthetic dataset to ``out`` with the audio of a share of its videos replaced by noise of the same shape.

    Unchanged files are hard links where the file system allows. With one seed, the videos of a smaller share are
    among those of a larger one. ``planted.json`` tells the change.

    Args:
        share: 0 to 1, of the videos that have audio.
    Returns:
        Number of videos whose audio was replaced.
    Raises:
        InputError: the share is out of range, or ``out`` exists. AnnotationError: ``folder`` is no synthetic dataset.
    """
    if not 0 <= share <= 1:
        raise InputError(f"share: got {share}, expected 0 to 1")
    folder = Path(folder)
    record = read_synthetic(folder)
    with_audio = sorted({query.vid for query in record.queries if query.audio != "none"})
    order = stream(seed, "noise order").permutation(len(with_audio))
    chosen = {with_audio[k] for k in order[: round(share * len(with_audio))]}
    with new_folder(out, overwrite) as copy:
        shutil.copytree(folder, copy, copy_function=_link, dirs_exist_ok=True)
        for vid in chosen:
            path = copy / "features" / "charades" / "audio" / f"{vid}.npy"
            if path.exists():
                shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
                path.unlink()  # never write through the link
                np.save(path, noise_like(shape, seed, vid), allow_pickle=False)
        _replace_vggish(copy / "features" / "activitynet" / "audio" / "VGGish.pickle", chosen, seed)
        (copy / SIDECAR).unlink()
        config = {**record.config, "replaced_share": share, "replaced_seed": seed}
        write_record(copy, config, with_noise(record.queries, chosen))
    return len(chosen)


def _replace_vggish(path: Path, chosen: set[str], seed: int) -> None:
    from img_deploy.features.safe_pickle import load_arrays

    if not path.exists():
        return
    sounds = dict(load_arrays(path))
    for vid in chosen & set(sounds):
        sounds[vid] = as_bytes(noise_like(sounds[vid].shape, seed, vid))
    path.unlink()
    path.write_bytes(pickle.dumps(sounds, protocol=4))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
