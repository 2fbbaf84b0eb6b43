"""What a Dask worker is sent with a job: the request, and the files that it cannot open itself."""

from __future__ import annotations

from pathlib import Path

import distributed

from napari_mlbseg.jobs.dask import remote
from napari_mlbseg.jobs.dask.connection import ask
from napari_mlbseg.jobs.folder import JobFolder, Request
from napari_mlbseg.jobs.inputs import ArrayReference

__all__ = ["MODEL_FILES", "package_inputs"]

#: Files of a trained model, in a job's folder.
MODEL_FILES = ("model.safetensors", "model.json")


def package_inputs(client: distributed.Client, folder: JobFolder, request: Request) -> tuple[str, dict[str, bytes]]:
    """JSON of the request as a worker needs it, and the content of files by their path in the worker's folder.

    Inputs are read from where they lie if all workers can open the job's folder; otherwise they are sent along.
    Raises UnreachableError, and OSError if an input cannot be read here.
    """
    digest = remote.digest_of(folder.path)
    seen = ask(lambda: client.run(remote.can_access, str(folder.path), digest))
    is_shared = bool(seen) and all(seen.values())
    files: dict[str, bytes] = {}
    volumes = tuple(
        volume.model_copy(
            update={
                name: _reference(folder, getattr(volume, name), f"inputs/{number}/{name}", files, is_shared)
                for name in ("image", "labels", "initial_labels")
                if getattr(volume, name) is not None
            }
        )
        for number, volume in enumerate(request.volumes)
    )
    if request.previous is not None:
        for name in MODEL_FILES:
            files[f"{remote.PREVIOUS}/{name}"] = (Path(request.previous) / name).read_bytes()
    config = request.config.updated(cluster="")
    return request.model_copy(update={"volumes": volumes, "config": config}).model_dump_json(), files


def _reference(
    folder: JobFolder, reference: ArrayReference, stem: str, files: dict[str, bytes], is_shared: bool
) -> ArrayReference:
    """Where the worker finds an array; adds to `files` what it is made of, unless the worker sees it here."""
    path = (folder.path / reference.path).absolute()
    if is_shared:
        return reference.model_copy(update={"path": str(path)})
    reference.fetch(folder.path, to_send=True)
    target = f"{stem}.{reference.format}"
    if path.is_dir():
        for file in path.rglob("*"):
            if file.is_file():
                files[f"{target}/{file.relative_to(path).as_posix()}"] = file.read_bytes()
    else:
        files[target] = path.read_bytes()
    return reference.model_copy(update={"path": target})
