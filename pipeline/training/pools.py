"""Pools of pairs, made once in parts and kept with the run that learns from them.

A part has a seed of its own, of the run's and its number, and pairs of every kind in the shares of
the whole: so a pool that a kill has stopped goes on with the pairs that it would have had, and a
larger one begins with the parts of a smaller one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from pipeline import prompts
from pipeline.training import kept
from pipeline.training.augment import Plane
from pipeline.training.kept import Parts, Shelf, Tensors
from pipeline.training.pairs import KINDS, Counts, PairMaker, Sample

Encode = Callable[[torch.Tensor], torch.Tensor]
"""[n, 1, h, w] in -1 .. 1 -> normalised latents."""

Keep = Callable[[Sequence[Sample]], Tensors]
"""What is kept of a batch of samples of one kind, a row for each."""

PART = 1000  # pairs: some three minutes of one CPU core, which a kill may cost
_CHUNK = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Latents [n, c, h, w] float16 of source and aim, the mask at their size, words and kind.

    `words` and `normal` index `captions`: what is seen in the source, and its view's normal prompt.
    They are the same for a film on which nothing was found.
    """

    source: torch.Tensor
    aim: torch.Tensor
    mask: torch.Tensor
    kind: torch.Tensor
    words: torch.Tensor
    normal: torch.Tensor
    captions: tuple[str, ...]

    def of(self, kind: str) -> npt.NDArray[np.int64]:
        """Where the members of a kind are."""
        return np.nonzero(self.kind.numpy() == KINDS.index(kind))[0]


def make(
    maker: PairMaker, counts: Counts, keep: Keep, shelf: Shelf, made_of: Mapping[str, str]
) -> Tensors:
    """What `keep` keeps of all pairs that the films allow.

    `made_of` says, beside the maker's origin, what decides what is kept.

    Raises:
        OutOfTimeError: the minutes are spent, and there are pairs to make.
    """
    shares, origin = in_shares(maker.allowed(counts), PART), {**maker.origin, **made_of}

    def make_part(number: int, tell: Callable[[int], None]) -> Tensors:
        return _collected(map(keep, chunks(maker.samples(shares[number], number))), tell)

    parts = Parts(
        what="pairs",
        sizes=[sum(astuple(share)) for share in shares],
        origins=[
            {**origin, "counts": repr(share), "part": str(number)}
            for number, share in enumerate(shares)
        ],
    )
    return kept.in_parts(shelf, parts, make_part)


def in_shares(counts: Counts, size: int) -> list[Counts]:
    """The counts in parts of about `size`, each with its share of every kind."""
    total = sum(astuple(counts))
    ends = [*range(size, total, size), total]
    until = [{k: round(n * end / total) for k, n in asdict(counts).items()} for end in ends]
    before = [dict.fromkeys(asdict(counts), 0), *until]
    shares = [
        Counts(**{kind: to[kind] - since[kind] for kind in to})
        for since, to in zip(before, until, strict=False)
    ]
    return [share for share in shares if any(astuple(share))]


def _collected(batches: Iterable[Tensors], tell: Callable[[int], None]) -> Tensors:
    found: dict[str, list[torch.Tensor]] = {}
    length = 0
    for batch in batches:
        for name, value in batch.items():
            found.setdefault(name, []).append(value)
        length += len(next(iter(batch.values())))
        tell(length)
    return {name: torch.cat(values).contiguous() for name, values in found.items()}


def make_pool(
    maker: PairMaker, counts: Counts, encode: Encode, shelf: Shelf, encoder: str = ""
) -> Pool:
    """The pool of latents kept there, made first where there is none, or one of something else.

    `encoder` is a digest of what `encode` computes with.

    Raises:
        OutOfTimeError: the minutes are spent, and there are pairs to make.
    """
    captions = all_captions()
    made_of = {
        "captions": kept.digest_of(repr(captions), repr(_said())),  # and what each of them means
        "encoder": encoder,
    }
    found = make(maker, counts, lambda batch: _encoded(batch, encode, captions), shelf, made_of)
    return Pool(**found, captions=captions)


def all_captions() -> tuple[str, ...]:
    """Every sentence a sample may carry, sorted; the empty one is the dropped caption."""
    return tuple(sorted({"", *(text for said in _said() for text in said)}))


def _said() -> list[tuple[str, ...]]:
    """Every sentence in the order of what it means; views may say the same."""
    words = prompts.load()
    return [said for view in prompts.VIEWS for said in words.sentences(view).values()]


def _encoded(
    batch: Sequence[Sample], encode: Encode, captions: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    source = encode(signed([sample.source for sample in batch]))
    same = [sample.source is sample.aim for sample in batch]
    aim = source if all(same) else encode(signed([sample.aim for sample in batch]))
    mask = torch.from_numpy(np.stack([sample.mask for sample in batch]))[:, None]
    normal = [prompts.load().normal_prompts(sample.view)[0] for sample in batch]
    return {
        "source": source.half(),
        "aim": aim.half().clone(),
        "mask": functional.adaptive_avg_pool2d(mask, (source.shape[-2], source.shape[-1])).half(),
        "kind": torch.tensor([KINDS.index(sample.kind) for sample in batch]),
        "words": torch.tensor([captions.index(sample.words) for sample in batch]),
        "normal": torch.tensor([captions.index(text) for text in normal]),
    }


def signed(planes: Sequence[Plane]) -> torch.Tensor:
    """[n, 1, h, w] in -1 .. 1, as networks take them."""
    return torch.from_numpy(np.stack(planes))[:, None] * 2 - 1


def chunks(samples: Iterator[Sample]) -> Iterator[list[Sample]]:
    """The samples in batches of one kind each."""
    chunk: list[Sample] = []
    for sample in samples:
        if len(chunk) == _CHUNK or (chunk and sample.kind != chunk[0].kind):
            yield chunk
            chunk = []
        chunk.append(sample)
    if chunk:
        yield chunk
