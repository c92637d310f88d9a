"""The board: the stamps of everything that can be invalidated, and the bell.

To invalidate a key, a namespace or a tag is to store a number that was never used before into its marks. Whatever can
be served carries the stamps under which it is current, its **label**, and they are compared with the board. So no
process has to be told of an invalidation, and none can miss it.

**Marks.** Each thing has four marks, by its hash, and its stamps stand while any of the four is unchanged. Other things
may share one of its marks, but hardly ever all four (Bloom, "Space/time trade-offs in hash coding with allowable
errors", 1970). The four lie in one page of memory. The root, which stands for everything, has a mark of its own.

**Invalidations and writes.** A key is two things: the key itself, which invalidations stamp without any lock, and the
writes to it (its hash with `WRITES`), which each store of a value stamps, under the lock of the shelf's ring. A label
names both. So a write makes older copies and the loads under way void, as an invalidation does. And a value that is
made of another one, as a counter is, has the other one's label except for the group of writes. So an invalidation at
any moment, even in the middle of counting, makes it void.

**The label rule.** A load is labelled with stamps that were read before it, in any order. What is copied or derived
takes over the label of what it was made of, and never stamps that were read near by. Otherwise:

1. P invalidates k, and has stored the first of its four stamps.
2. Q copies an old record of k, which stands by its other marks, under stamps that it reads now: (new, old, old, old).
3. P stores the rest, and its call returns.
4. Q's copy stands by its first mark, for good.

**The bell.** It changes with every event. A near copy remembers the bell at which its label was last compared: while
the bell is the same, nothing at all has happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct

from .hashes import ROOT, WRITES
from .memory import Fences, Heard, Words
from .numbers import Numbers

PAGE = 512  # marks in a page of memory
OFFSET = PAGE - 1
OFFSET_BITS = 9
PAGE_SHIFT = 4 * OFFSET_BITS

#: What may be served carries as bytes: for each thing that it depends on a group, which is the thing's hash and the
#: stamps of its four marks. The groups of the root, of the key and of the writes to the key are the first ones. As one
#: object, a label takes a fifth of the memory that its numbers would take (docs/decisions/0025), and none of the
#: garbage collector's time.
Label = bytes

GROUP = Struct("=5Q")
_ROOT = Struct("=2Q24x")  # the root has one mark
_KEY = Struct("=2Q24x10Q")  # the first three groups
WRITES_AT = 2 * GROUP.size  # where in a label the group of the writes to the key is
_OTHERS_AT = 3 * GROUP.size
_HASH = Struct("=Q")


class Board:
    """The board of one host, as one process uses it. Any thread may call all methods."""

    __slots__ = ("_fences", "_numbers", "bell", "heard", "marks", "pages")

    def __init__(
        self, bell: Words, marks: Words, count: int, numbers: Numbers, fences: Fences, heard: Heard | None = None
    ) -> None:
        """``bell`` is one word; ``marks`` are ``1 + count`` words, ``count`` a power of two and at least `PAGE`.

        ``heard`` is the bell as readers load it, if they load it in another way.
        """
        if count < PAGE or count & (count - 1):
            raise ValueError(f"count={count}: the number of marks is a power of two, and at least {PAGE}")
        self.bell = bell
        self.heard: Heard = bell if heard is None else heard
        self.marks = marks
        self.pages = count // PAGE - 1  # a mask
        self._numbers = numbers
        self._fences = fences

    def marks_of(self, hash: int) -> tuple[int, int, int, int]:
        """Return the four marks of a thing; the root's are one and the same."""
        if hash == ROOT:
            return 0, 0, 0, 0
        start = (hash >> PAGE_SHIFT & self.pages) * PAGE + 1
        return (
            start + (hash & OFFSET),
            start + (hash >> OFFSET_BITS & OFFSET),
            start + (hash >> 2 * OFFSET_BITS & OFFSET),
            start + (hash >> 3 * OFFSET_BITS & OFFSET),
        )

    # --- Events

    def invalidate(self, hashes: Sequence[int], *, related: bool = False) -> None:
        """Invalidate what the hashes stand for. When this returns, nobody serves anything that was loaded before.

        ``related`` says that the loader of one of these values may read another one of them, as with a tag, a namespace
        or several keys. Then everything is stamped twice. Otherwise:

        1. W has stored the stamps of a tag, and not rung the bell yet.
        2. R misses a page with the tag. Its label has the new stamps. Its loader reads a part with the tag: a near copy
           that has the present bell, or a record that stands by a mark which W has still to store. It is served.
        3. R stores the page, made of the old part, under the new stamps.
        4. W rings, and its call returns. The page stands for good.

        A label with any of the second stamps was read after the first bell, so the parts are void for its loader. A
        label with none of them is void itself.
        """
        self.stamp(hashes)
        if related:
            self.ring()
            self._fences.order()
            self.stamp(hashes)
        self.ring()

    def stamp(self, hashes: Iterable[int]) -> None:
        """Change the stamps of things. This alone makes loads under way void, and records; `ring` tells near copies."""
        marks, number = self.marks, self._numbers.next()
        for hash in hashes:
            first, second, third, fourth = self.marks_of(hash)
            marks[first] = number
            marks[second] = number
            marks[third] = number
            marks[fourth] = number

    def ring(self) -> None:
        """Ring the bell, after what it is rung for was stored, and return when everybody can hear it.

        The full fence is needed on x86, too. Without it:

        1. P stores a stamp and its bell, 2. Both wait in the store buffer of its core, where P's own loads find them.
        2. P loads the bell, 2, compares an entry with its stamp, which is still the old one, and notes the bell 2.
        3. W stores that stamp and its bell, 1, and its call returns.
        4. P's bell, 2, becomes visible, over W's. It is the entry's: the entry is served for good.
        """
        self._fences.order()
        self.bell[0] = self._numbers.next()
        self._fences.full()

    # --- Labels

    def label(self, hashes: Iterable[int]) -> Label:
        """Return the label of what is loaded from now on, for things given by their hashes."""
        return b"".join([self.group(hash) for hash in hashes])

    def label_of(self, hash: int, hashes: Sequence[int]) -> Label:
        """Return the label of what is loaded from now on for a key.

        ``hashes`` are those of the root, and of what else the key's value depends on. The label has the groups of the
        root, the key, the writes to the key, and the rest.
        """
        marks, page, writes = self.marks, (hash >> PAGE_SHIFT & self.pages) * PAGE + 1, hash ^ WRITES
        label = _KEY.pack(
            ROOT, marks[0],
            hash, marks[page + (hash & OFFSET)], marks[page + (hash >> OFFSET_BITS & OFFSET)],
            marks[page + (hash >> 2 * OFFSET_BITS & OFFSET)], marks[page + (hash >> 3 * OFFSET_BITS & OFFSET)],
            writes, marks[page + (writes & OFFSET)], marks[page + (writes >> OFFSET_BITS & OFFSET)],
            marks[page + (writes >> 2 * OFFSET_BITS & OFFSET)], marks[page + (writes >> 3 * OFFSET_BITS & OFFSET)],
        )  # fmt: skip
        return label if len(hashes) == 1 else label + self.label(hashes[1:])

    def group(self, hash: int) -> bytes:
        """Return the hash of a thing, with the stamps of its marks."""
        marks = self.marks
        if hash == ROOT:
            return _ROOT.pack(ROOT, marks[0])
        page = (hash >> PAGE_SHIFT & self.pages) * PAGE + 1
        return GROUP.pack(
            hash, marks[page + (hash & OFFSET)], marks[page + (hash >> OFFSET_BITS & OFFSET)],
            marks[page + (hash >> 2 * OFFSET_BITS & OFFSET)], marks[page + (hash >> 3 * OFFSET_BITS & OFFSET)],
        )  # fmt: skip

    def stands(self, label: Label) -> bool:
        """Tell whether no event has hit any of a label's things since its stamps were read.

        A group's first mark is read first, because `stamp_write` stores it last. In the other order:

        1. W has stored the way of a record, which stands by its first mark so far.
        2. R finds the record. Its fourth, third and second marks do not have its stamps yet.
        3. W stores all four.
        4. R reads the first mark, which the record does not stand by any more. R finds no value, although there always
           was one.
        """
        marks, pages = self.marks, self.pages
        for hash, one, two, three, four in GROUP.iter_unpack(label):
            if hash == ROOT:
                if marks[0] != one:
                    return False
                continue
            page = (hash >> PAGE_SHIFT & pages) * PAGE + 1
            if (
                marks[page + (hash & OFFSET)] != one
                and marks[page + (hash >> OFFSET_BITS & OFFSET)] != two
                and marks[page + (hash >> 2 * OFFSET_BITS & OFFSET)] != three
                and marks[page + (hash >> 3 * OFFSET_BITS & OFFSET)] != four
            ):
                return False
        return True

    # --- Writes

    def label_to_write(self, hash: int, hashes: Sequence[int]) -> Label:
        """Return ``write_label(label_of(hash, hashes))``, in one step that takes less time."""
        marks, page, writes = self.marks, (hash >> PAGE_SHIFT & self.pages) * PAGE + 1, hash ^ WRITES
        number = self._numbers.next()
        label = _KEY.pack(
            ROOT, marks[0],
            hash, marks[page + (hash & OFFSET)], marks[page + (hash >> OFFSET_BITS & OFFSET)],
            marks[page + (hash >> 2 * OFFSET_BITS & OFFSET)], marks[page + (hash >> 3 * OFFSET_BITS & OFFSET)],
            writes, marks[page + (writes & OFFSET)], number, number, number,
        )  # fmt: skip
        return label if len(hashes) == 1 else label + self.label(hashes[1:])

    def write_label(self, label: Label) -> Label:
        """Return the label of a record that is about to be written: ``label``, with other stamps of the writes.

        Whatever ``label`` has for the writes to the key is replaced, because others may have written since. The record
        stands by its first mark until `stamp_write` is called, and by the others from then on. So a writer
        that is killed between the record's commit and the stamps leaves a value that stands, and not a key without
        one. Call this under the lock of the key's ring.
        """
        number = self._numbers.next()
        (writes,) = _HASH.unpack_from(label, WRITES_AT)
        first = self.marks[(writes >> PAGE_SHIFT & self.pages) * PAGE + 1 + (writes & OFFSET)]
        return label[:WRITES_AT] + GROUP.pack(writes, first, number, number, number) + label[_OTHERS_AT:]

    def stamp_write(self, label: Label) -> None:
        """Make older copies of a key void, and loads of it that are under way; the record of ``label`` is committed."""
        marks = self.marks
        writes, _, number, _, _ = GROUP.unpack_from(label, WRITES_AT)
        first, second, third, fourth = self.marks_of(writes)
        marks[fourth] = number
        marks[third] = number
        marks[second] = number
        self._fences.order()  # otherwise the record could be seen to stand by none of its marks
        marks[first] = number
