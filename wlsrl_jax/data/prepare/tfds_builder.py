"""The TFDS builder of every data set: it writes what ``prepare`` has made ready."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.writer import ExampleWriter
from tensorflow_datasets.proto import tf_example_pb2

from wlsrl_jax.data.published.common import DatasetSpec
from wlsrl_jax.tasks import MODALITIES


class _SameBytes(ExampleWriter):
    """Writes equal examples as equal bytes: protobuf orders a map anew in every process."""

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
        return super().write(path, ((key, _sorted(example)) for key, example in examples))


def _sorted(example: bytes) -> bytes:
    parsed = tf_example_pb2.Example.FromString(example)
    return parsed.SerializeToString(deterministic=True)


def _keyed(shard: Callable[[], Iterator[Any]]) -> Iterator[tuple[int, Any]]:
    yield from enumerate(shard())


Shard = Callable[[], Iterator[dict[str, Any]]]


class PreparedBuilder(tfds.core.ShardBasedBuilder):
    """TFDS builder that writes images which ``prepare`` has already made ready.

    Shard by shard, for a ``GeneratorBasedBuilder`` keeps a split in memory to sort it, and needs
    TensorFlow to do so where that is more than 1 GB.

    Args:
      spec: the data set.
      size: (height, width) of the images, pixels.
      splits: split -> a function for each shard, called in order, that gives its examples (dict
        of image PNG bytes, label, id, group) in order.
      **kwargs: of TFDS.
    """

    VERSION = tfds.core.Version("1.0.0")
    name = "prepared_retina"

    def __init__(
        self,
        *,
        spec: DatasetSpec,
        size: tuple[int, int],
        splits: Mapping[str, Sequence[Shard]],
        **kwargs: Any,
    ) -> None:
        self._spec, self._size, self._source_splits = spec, size, splits
        self.name = spec.name
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        channels = MODALITIES[self._spec.modality].channels
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self._spec.name}, prepared for training.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(*self._size, channels), encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(names=list(self._spec.classes)),
                    "id": tfds.features.Text(),
                    "group": tfds.features.Text(),
                }
            ),
            homepage=self._spec.homepage,
            license=self._spec.license,
            citation=self._spec.citation,
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, Any]:
        return {
            name: [functools.partial(_keyed, shard) for shard in shards]
            for name, shards in self._source_splits.items()
        }

    def _example_writer(self) -> ExampleWriter:
        return _SameBytes(self.info.file_format)
