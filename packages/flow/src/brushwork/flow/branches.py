"""The contexts that guidance compares for one sequence, and where they can go back to.

Every sequence has all of it, all but the last text, and all but the images. The second is a shorter view of the first.
The third shares the first's beginning, up to the first image, and reads later texts by itself, not before somebody
draws.
"""

from dataclasses import dataclass, field

from brushwork.flow.cache import Context


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A place in a sequence.

    Attributes:
        main, before_text: as in `Branches`; marks of `main`.
        without_images: mark of that context; None where it was `main` itself.
        unread: ids that it had yet to read.
        restarts: how often the sequence had begun anew, see `Engine.restart`: its tokens of before are gone.
    """

    main: tuple[int, int]
    before_text: tuple[int, int]
    without_images: tuple[int, int] | None
    unread: tuple[int, ...]
    restarts: int


@dataclass(kw_only=True, slots=True)
class Branches:
    """One sequence's contexts, and what it has cost.

    Attributes:
        main: all that was read and drawn.
        before_text: mark of `main` before the last text.
        without_images: the texts alone; None as long as that is `main` itself, or nobody needs it.
        spare: a context that `without_images` may be again, since its slots are given away once.
        unread: ids that `without_images` has yet to read.
        restarts: how often all but the beginning was forgotten.
        forwards: evaluations of the model that this sequence took part in, each branch counted.
        prefilled: tokens that were written into the cache.
    """

    main: Context
    before_text: tuple[int, int] = (0, 0)
    without_images: Context | None = None
    spare: Context | None = None
    unread: list[int] = field(default_factory=list)
    restarts: int = 0
    forwards: int = 0
    prefilled: int = 0

    @property
    def mark(self) -> Mark:
        """Where the sequence is."""
        return Mark(
            main=self.main.mark,
            before_text=self.before_text,
            without_images=None if self.without_images is None else self.without_images.mark,
            unread=tuple(self.unread),
            restarts=self.restarts,
        )

    def rollback(self, mark: Mark) -> None:
        """Forgets what came after `mark`, not one of before a restart; views of that are void from then on."""
        self.main.rollback(mark.main)
        self.before_text, self.unread = mark.before_text, list(mark.unread)
        if mark.without_images is not None:
            assert self.without_images is not None, "it is lost by going back alone, to before the mark"
            self.without_images.rollback(mark.without_images)
        elif self.without_images is not None:
            self.spare, self.without_images = self.without_images, None


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """Where one image is drawn: the contexts as they were when it was asked for.

    Attributes:
        main: all of it.
        without_text, without_images: what guidance compares it with; None where that is `main`, or not asked for.
        row: whose cost it is.
    """

    main: Context
    without_text: Context | None
    without_images: Context | None
    row: Branches

    def contexts(self, *, guided: bool) -> list[Context]:
        """The branches to evaluate; none stands there twice."""
        others = (self.without_text, self.without_images) if guided else ()
        return [self.main, *(context for context in others if context is not None)]
