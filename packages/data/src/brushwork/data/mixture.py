"""Several folders of shards as one endless, weighted, shuffled sequence, of which a few counts say how far it is."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from brushwork.data.shards import Rejected, ShardFolder
from brushwork.tokens.trajectory import Trajectory

Ref = tuple[int, int]
"""Which pass over its folder a sample belongs to, and its number in the mixture."""


class Mixture:
    """Folders of which each is passed over again and again, in an order of its own every time.

    After any number of draws each folder has been drawn from as often as its weight says, give or take one. Within a
    pass over a folder nothing is left out and nothing comes twice.

    Args:
        folders: the samples; they are numbered through.
        weights: how often each folder is drawn from, in any unit; None draws from each as often as it is large, so
            that all passes end together.
        shuffled_shards: samples change places within so many shards, which are themselves in random order: reading
            stays within a few files at a time, as network storage likes it.
        seed: of the orders.

    Raises:
        ValueError: no folder, or weights that are not as many or not all above 0.
    """

    def __init__(
        self,
        folders: Sequence[ShardFolder],
        weights: Sequence[float] | None = None,
        *,
        shuffled_shards: int = 64,
        seed: int = 0,
    ) -> None:
        sizes = np.array([len(folder) for folder in folders], dtype=np.float64)
        shares = sizes if weights is None else np.array(weights, dtype=np.float64)
        if not folders or len(shares) != len(folders) or (weights is not None and (shares <= 0).any()):
            raise ValueError(f"weights={weights} for {len(folders)} folders: expected one above 0 for each")
        if weights is not None and not sizes.all():
            empty = [str(folder.folder) for folder in folders if not len(folder)]
            raise ValueError(f"{', '.join(empty)} holds no sample to draw from; leave it out of the mixture")
        self.folders, self.shuffled_shards, self.seed = list(folders), shuffled_shards, seed
        self._shares = shares / (shares.sum() or 1)
        self._starts = np.cumsum([0, *(len(folder) for folder in folders)]).tolist()
        self._order = lru_cache(maxsize=2 * len(folders))(self._shuffled)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Trajectory | Rejected:
        """The sample of this number; IndexError outside 0 to len - 1."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        folder = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.folders[folder][index - self._starts[folder]]

    @property
    def subsets(self) -> set[str]:
        """The subsets that the folders' manifests name."""
        return set().union(*(folder.subsets for folder in self.folders))

    def sketch(self, index: int) -> Trajectory | Rejected:
        """The sample of this number with pictures that hold nothing, see `ShardFolder.sketch`."""
        folder = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.folders[folder].sketch(index - self._starts[folder])

    def name(self, index: int, key: str) -> str:
        """What to call the sample of this number: its key, which is its own among those of one folder alone."""
        folder = int(np.searchsorted(self._starts, index, side="right")) - 1
        return key if len(self.folders) == 1 else f"{self.folders[folder].folder}/{key}"

    def draw(self, drawn: Sequence[int], count: int) -> tuple[list[Ref], list[int]]:
        """The next samples.

        Args:
            drawn: how many samples have come from each folder so far: all zeros at the beginning.
            count: how many to draw.

        Returns:
            The samples, and `drawn` after them.

        Raises:
            ValueError: `drawn` is of another mixture.
        """
        if len(drawn) != len(self.folders):
            raise ValueError(
                f"the checkpoint has read from {len(drawn)} folders, this run has {len(self.folders)}: "
                "go on with the same ones, or begin anew from the model folder"
            )
        so_far, refs = np.array(drawn, dtype=np.int64), []
        for _ in range(count if len(self) else 0):
            behind = self._shares * (so_far.sum() + 1) - so_far
            folder = int(behind.argmax())
            epoch, place = divmod(int(so_far[folder]), len(self.folders[folder]))
            refs.append((epoch, self._starts[folder] + int(self._order(folder, epoch)[place])))
            so_far[folder] += 1
        return refs, so_far.tolist()

    def _shuffled(self, folder: int, epoch: int) -> np.ndarray:
        """The order of a pass: shards shuffled, then samples within blocks of shards."""
        rng = np.random.default_rng((self.seed, 0, folder, epoch))
        ends: list[int] = np.cumsum([0, *self.folders[folder].sizes]).tolist()
        shards = [np.arange(ends[number], ends[number + 1]) for number in rng.permutation(len(ends) - 1)]
        blocks = [shards[at : at + self.shuffled_shards] for at in range(0, len(shards), self.shuffled_shards)]
        return np.concatenate([rng.permutation(np.concatenate(block)) for block in blocks])
