"""A job on its way to its worker, while the window goes on: saved, copied, written and started."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from napari_mlbseg._util.arrays import ArrayView, is_lazy, is_on_disk
from napari_mlbseg._util.background import Background
from napari_mlbseg._util.zarr_arrays import local_path
from napari_mlbseg.io.file_array import FileArray
from napari_mlbseg.jobs.inputs import CopyProgress
from napari_mlbseg.session.launcher import AbandonedError, Launch, Permit
from napari_mlbseg.session.persistence.autosave import Autosave
from napari_mlbseg.session.persistence.folder import SessionFolder
from napari_mlbseg.session.persistence.schema import SessionError
from napari_mlbseg.session.persistence.volume_store import StoredVolume
from napari_mlbseg.session.rounds import Run
from napari_mlbseg.session.volume import AnnotatedVolume
from napari_mlbseg.task import SegmentationTask, TaskError, Volume, check_images

__all__ = ["JobStarter", "unread_images"]


class JobStarter:
    """What lies between the wish to train and the worker.

    What is painted is saved, and images that would have to be computed are copied into the session's folder; at the
    same time those images are searched for numbers, in a thread. Then the same thread writes the job and starts it.

    Parameters
    ----------
    volumes : iterable of AnnotatedVolume
    task : SegmentationTask
        Of the same volumes. Its images need not be checked as far as `unread_images` names them.
    saver : Autosave
    launch : callable
        See `Launch`.

    Attributes
    ----------
    looked_at : tuple of (str, int), optional
        Volume and slice that the user has turned to meanwhile.
    """

    def __init__(
        self, volumes: Iterable[AnnotatedVolume], task: SegmentationTask, saver: Autosave, launch: Launch
    ) -> None:
        self.looked_at: tuple[str, int] | None = None
        self._task: SegmentationTask | None = task
        self._saver, self._launch = saver, launch
        self._computed = {volume.name: volume for volume in volumes if _is_computed(volume)}
        self._demand = saver.demand(volume.uid for volume in self._computed.values())
        self._permit = Permit()
        self._background = Background("mlbseg-beginning")
        self._is_checked = self._is_launched = False
        self._run: Run | None = None
        self._error: Exception | None = None
        unread = [volume for volume in task.volumes if volume.name in unread_images([volume])]
        self._background.submit(lambda: _check(unread, self._permit), self._on_checked, self._on_failed)

    def poll(self) -> Run | None:
        """Go on; what has begun, once it has.

        Raises
        ------
        AbandonedError
            Once `abandon` has had its effect.
        TaskError, SessionError, OSError
            If it cannot begin; nothing is left behind.
        """
        self._background.poll()
        if self._permit.is_withdrawn:
            if self._background.is_idle:
                raise AbandonedError
            return None
        if self._error is None:
            self._error = self._demand.error
        if self._error is not None:
            self._permit.withdraw()
            raise self._error
        if self._is_checked and self._demand.is_met and not self._is_launched:
            self._is_launched = True
            copies, folder = dict(self._kept()), self._saver.folder
            task, self._task = self._task, None  # it holds copies of what is painted, which may be large
            assert task is not None  # it is launched once
            self._background.submit(
                lambda: _launch(self._launch, task, copies, self._computed, folder, self._permit),
                self._on_launched,
                self._on_failed,
            )
        return self._run

    @property
    def copied(self) -> CopyProgress | None:
        """How far the copying of an image is; None while nothing is copied."""
        if self._is_launched:
            return self._permit.copied
        left = next(((name, kept) for name, kept in self._kept() if not kept.is_copied), None)
        return None if left is None else CopyProgress(left[0], "image", left[1].copied, left[1].volume.n_slices)

    def abandon(self) -> bool:
        """Begin nothing any more; False if the worker was started already. Returns at once."""
        return self._permit.withdraw()

    def wait(self, seconds: float) -> None:
        """Wait for what the thread does, at most so long."""
        self._background.flush(seconds)

    def close(self) -> None:
        """Let the thread end when it has done what it does."""
        self._background.close()

    def _kept(self) -> list[tuple[str, StoredVolume]]:
        """Volume name -> what is kept of it, of those whose images are copied first."""
        known = [(name, self._saver.registry.get(volume.uid)) for name, volume in self._computed.items()]
        return [(name, kept) for name, kept in known if kept is not None]

    def _on_checked(self, result: None) -> None:
        self._is_checked = True

    def _on_launched(self, run: Run) -> None:
        self._run = run

    def _on_failed(self, error: Exception) -> None:
        self._error = error


def unread_images(volumes: Iterable[Volume]) -> set[str]:
    """Names of volumes whose images are not in memory: a window cannot wait for them."""
    return {volume.name for volume in volumes if is_on_disk(volume.image)}


def _is_computed(volume: AnnotatedVolume) -> bool:
    """Whether the image is neither in memory nor in a file that the worker could open: a dask array, say."""
    image = volume.image
    is_file = isinstance(image, FileArray) or local_path(image) is not None
    is_view = isinstance(image, ArrayView) and local_path(image.array) is not None
    return volume.source is None and is_lazy(image) and not (is_file or is_view)


def _check(volumes: list[Volume], permit: Permit) -> None:
    """Refuse images without numbers; raises TaskError, AbandonedError, or SessionError if one cannot be read."""
    try:
        check_images(volumes, permit.step)
    except (TaskError, AbandonedError):
        raise
    except Exception as error:  # it may come out of any library
        raise SessionError(
            f"The image cannot be read ({str(error) or type(error).__name__}): mend it or choose another."
        ) from error


def _launch(
    launch: Launch,
    task: SegmentationTask,
    copies: dict[str, StoredVolume],
    computed: dict[str, AnnotatedVolume],
    folder: SessionFolder,
    permit: Permit,
) -> Run:
    """Write and start the job of a task; what the session has copied is read there and not computed again."""
    images = {name: kept.copy_of(computed[name], folder) for name, kept in copies.items()}
    volumes = tuple(
        volume if (copy := images.get(volume.name)) is None else replace(volume, image=copy) for volume in task.volumes
    )
    try:
        return launch(replace(task, volumes=volumes), folder, permit)
    except (AbandonedError, ValueError, OSError):
        raise
    except Exception as error:  # a part of an image may still have to be computed, by any library
        raise SessionError(
            f"The training could not begin ({type(error).__name__}: {error}): look whether every slice of the image "
            "can be shown, then press Train again."
        ) from error
