"""Calls about images and datasets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from beaker import beaker_pb2 as pb2

from tunewright.beaker_emulator.call_group import CallGroup, Office
from tunewright.beaker_emulator.datasets import DatasetFiles
from tunewright.beaker_emulator.identifiers import checked_name
from tunewright.beaker_emulator.listing import dataset_matches, is_of, need, says
from tunewright.beaker_emulator.moments import now


class StorageCalls(CallGroup):
    """What is kept."""

    def __init__(self, office: Office) -> None:
        super().__init__(office)
        self._files = DatasetFiles(office.store)

    def GetImage(self, request: pb2.GetImageRequest, user: pb2.User) -> pb2.GetImageResponse:
        """By its id."""
        return pb2.GetImageResponse(image=self._store.images.get(request.image_id))

    def ResolveImageName(self, request: pb2.ResolveImageNameRequest, user: pb2.User) -> pb2.ResolveImageNameResponse:
        """The id of a name."""
        full_name = f"{request.author_name}/{request.image_name}"
        found = need(self._store.images, lambda image: image.full_name == full_name, f"image {full_name!r}")
        return pb2.ResolveImageNameResponse(image_id=found.id)

    def ListImages(self, request: pb2.ListImagesRequest, user: pb2.User) -> pb2.ListImagesResponse:
        """Those that match."""

        def matching(opts: Any) -> Iterable[pb2.Image]:
            for image in self._in_organization(opts, self._store.images):
                if says(image, opts.image_name_or_description) and is_of(image, opts):
                    yield image

        rows, token = self._pages.of(request, matching)
        return pb2.ListImagesResponse(images=rows, next_page_token=token)

    def UpdateImage(self, request: pb2.UpdateImageRequest, user: pb2.User) -> pb2.UpdateImageResponse:
        """Name, description, committed."""
        image = self._store.images.get(request.image_id)
        self._writable_workspace(image.workspace_id, user)
        if request.HasField("name"):
            image.name = checked_name(request.name, "an image")
            image.full_name = f"{user.name}/{image.name}"
        if request.HasField("description"):
            image.description = request.description
        if request.HasField("committed") and not image.HasField("committed"):
            image.committed.CopyFrom(now())
        return pb2.UpdateImageResponse(image=self._store.images.put(image))

    def DeleteImages(self, request: pb2.DeleteImagesRequest, user: pb2.User) -> pb2.DeleteImagesResponse:
        """From Beaker; the local daemon keeps its own."""
        for image in [self._store.images.get(image_id) for image_id in request.image_ids]:
            self._writable_workspace(image.workspace_id, user)
            self._store.images.delete(image.id)
        return pb2.DeleteImagesResponse()

    def GetDataset(self, request: pb2.GetDatasetRequest, user: pb2.User) -> pb2.GetDatasetResponse:
        """By its id."""
        dataset = self._store.datasets.get(request.dataset_id)
        count, size_bytes = self._files.totals(dataset.id)
        storage = pb2.DatasetStorage(total_size=size_bytes, file_count=count)
        return pb2.GetDatasetResponse(dataset=dataset, datasetStorage=storage)

    def ResolveDatasetName(
        self, request: pb2.ResolveDatasetNameRequest, user: pb2.User
    ) -> pb2.ResolveDatasetNameResponse:
        """The id of a name."""
        full_name = f"{request.author_name}/{request.dataset_name}"
        found = need(self._store.datasets, lambda dataset: dataset.full_name == full_name, f"dataset {full_name!r}")
        return pb2.ResolveDatasetNameResponse(dataset_id=found.id)

    def ListDatasets(self, request: pb2.ListDatasetsRequest, user: pb2.User) -> pb2.ListDatasetsResponse:
        """Those that match."""

        def matching(opts: Any) -> Iterable[pb2.Dataset]:
            for dataset in self._in_organization(opts, self._store.datasets):
                if dataset_matches(dataset, opts):
                    yield dataset

        rows, token = self._pages.of(request, matching)
        return pb2.ListDatasetsResponse(datasets=rows, next_page_token=token)

    def UpdateDataset(self, request: pb2.UpdateDatasetRequest, user: pb2.User) -> pb2.UpdateDatasetResponse:
        """Name, description, committed."""
        dataset = self._store.datasets.get(request.dataset_id)
        self._writable_workspace(dataset.workspace_id, user)
        if request.HasField("name"):
            dataset.name = checked_name(request.name, "a dataset")
            dataset.full_name = f"{user.name}/{dataset.name}"
        if request.HasField("description"):
            dataset.description = request.description
        if request.HasField("committed") and not dataset.HasField("committed"):
            dataset.committed.CopyFrom(now())
        return pb2.UpdateDatasetResponse(dataset=self._store.datasets.put(dataset))

    def ListDatasetFiles(self, request: pb2.ListDatasetFilesRequest, user: pb2.User) -> pb2.ListDatasetFilesResponse:
        """Paths, sizes and digests."""
        rows, token = self._pages.of(request, lambda opts: self._files.listed(opts.dataset_id, opts.prefix))
        return pb2.ListDatasetFilesResponse(
            dataset_files=rows, next_page_token=token, file_count=len(rows), total_size=sum(row.size for row in rows)
        )

    def DeleteDatasets(self, request: pb2.DeleteDatasetsRequest, user: pb2.User) -> pb2.DeleteDatasetsResponse:
        """With their files."""
        for dataset in [self._store.datasets.get(dataset_id) for dataset_id in request.dataset_ids]:
            self._writable_workspace(dataset.workspace_id, user)
            self._store.datasets.delete(dataset.id)
            self._store.forget_files(dataset.id)
        return pb2.DeleteDatasetsResponse()
