"""Trains the domain text encoder: a small BERT, masked-word learning on radiology reports.

While it learns the reports' language (1810.04805) it also learns, from template sentences, which
finding is said to be where and which is denied, so that "no opacity" lies near "normal".
"""

import csv
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import BertWordPieceTokenizer
from torch import nn
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM, BertModel, PreTrainedTokenizerFast

from pipeline import prompts
from pipeline.errors import DatasetError
from pipeline.training import files, kept, ranks
from pipeline.training.session import Progress, Recipe, Session, autocast

TOKENS = 32
"""Every prompt is padded or cut to this many tokens."""

_VOCABULARY = 4096
_WIDTH, _LAYERS, _HEADS = 256, 4, 4
_MASKED_SHARE = 0.15  # of the words, as in BERT (1810.04805, 3.1)
_TEMPLATE_SHARE = 0.25
_RECORD_EVERY = 100
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CORPUS = "corpus.sha256"
_ANEW = "move the folder language-model away to begin anew"
_DENIALS = ("No {finding}.", "There is no {finding}.", "No {zone} {finding}.", "Without {finding}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A template sentence and what it says: which findings, in which zones (none: normal)."""

    text: str
    labels: tuple[str, ...]


class Reader(nn.Module):
    """The encoder with its two heads: the masked word, and what a sentence says."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=_VOCABULARY,
            hidden_size=_WIDTH,
            num_hidden_layers=_LAYERS,
            num_attention_heads=_HEADS,
            intermediate_size=4 * _WIDTH,
            max_position_embeddings=64,
        )
        self.masked = BertForMaskedLM(config)
        self.says = nn.Linear(_WIDTH, labels)

    @property
    def encoder(self) -> BertModel:
        """The encoder alone, as it is shipped."""
        return self.masked.bert

    def meaning(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits of each label, from the mean of the words' states."""
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask[..., None].float()
        logits: torch.Tensor = self.says((states * weight).sum(1) / weight.sum(1))
        return logits


def read_reports(path: Path, split: str = "train") -> list[str]:
    """The sentences of findings and impressions, without the publisher's XXXX.

    Raises:
        DatasetError: the file lacks a column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.DictReader(file) if row.get("split") == split]
    except OSError as fault:
        raise DatasetError(f"{path}: cannot be read: {fault.strerror}") from fault
    except (UnicodeDecodeError, csv.Error) as fault:
        raise DatasetError(f"{path}: is no CSV in UTF-8: {fault}") from fault
    if not rows or not {"findings", "impression"} <= rows[0].keys():
        raise DatasetError(f"{path}: needs columns split, findings, impression and rows of {split}")
    texts = itertools.chain.from_iterable((row["findings"], row["impression"]) for row in rows)
    sentences = itertools.chain.from_iterable(re.split(r"(?<=[.?!])\s+", text) for text in texts)
    cleaned = (re.sub(r"\s*X{3,}\s*", " ", sentence).strip() for sentence in sentences)
    return [sentence for sentence in cleaned if len(sentence.split()) > 1]


def templates() -> list[Sentence]:
    """Every template sentence of prompts.yaml, said and denied, with what it says."""
    words = prompts.load()
    said = [
        Sentence(text=words.induced_prompt(zone, finding, view), labels=(zone, finding))
        for view in prompts.VIEWS
        for zone in prompts.ZONES
        for finding in prompts.FINDINGS
    ]
    said += [
        Sentence(text=words.labelled_prompt(finding, view), labels=(finding,))
        for view in prompts.VIEWS
        for finding in prompts.FINDINGS
    ]
    denied = [
        Sentence(text=f"{view} chest radiograph. {text}", labels=())
        for view in words.views.values()
        for text in _denials(words)
    ]
    normal = [Sentence(text=t, labels=()) for v in prompts.VIEWS for t in words.normal_prompts(v)]
    # Normal sentences are few and denials many: repeated, they are met as often.
    return said + denied + normal * 10


def _denials(words: prompts.Prompts) -> Iterator[str]:
    for form, finding in itertools.product(_DENIALS, words.findings.values()):
        for zone in words.zones.values() if "{zone}" in form else (("",),):
            yield form.format(finding=finding[0], zone=zone[0].lower())


def keep_tokenizer(sentences: Sequence[str], folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of the run in `folder`: made at its begin, and not changed under its weights.

    The trainer numbers words that are as frequent as each other anyhow, so that a second tokenizer
    of the same sentences would not do.

    Raises:
        DatasetError: the run began with other sentences, or its tokenizer cannot be read.
    """
    place, corpus = folder / "tokenizer", kept.digest_of(repr(sentences))
    with ranks.first_goes_first():
        if ranks.is_first() and not (folder / "state.safetensors").exists():
            with files.whole_folder(place) as scratch:
                train_tokenizer(sentences).save_pretrained(scratch)
                (scratch / _CORPUS).write_text(corpus, encoding="utf-8")
        try:
            found = PreTrainedTokenizerFast.from_pretrained(place, local_files_only=True)
        except (OSError, ValueError) as fault:
            raise DatasetError(f"{place}: cannot be read: {fault}; {_ANEW}") from fault
    began = place / _CORPUS  # runs of before have none
    if began.exists() and began.read_text(encoding="utf-8") != corpus:
        raise DatasetError(
            f"{folder}: reports or prompts are not those the run began with; {_ANEW}"
        )
    return found


def train_tokenizer(sentences: Sequence[str]) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of `sentences`."""
    pieces = BertWordPieceTokenizer(lowercase=True)
    pieces.train_from_iterator(
        sentences, vocab_size=_VOCABULARY, min_frequency=2, special_tokens=list(_SPECIAL)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces._tokenizer,
        model_max_length=TOKENS,
        **dict(
            zip(
                ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"),
                _SPECIAL,
                strict=True,
            )
        ),
    )


def train(
    sentences: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    folder: Path,
    progress: Progress,
) -> Reader:
    """Train on report sentences and templates together and return the averaged weights."""
    torch.manual_seed(recipe.seed)
    said = templates()
    labels = sorted({label for sentence in said for label in sentence.labels})
    model = Reader(len(labels)).to(recipe.device)
    session = Session(model=model, recipe=recipe, folder=folder, progress=progress)
    rng = np.random.default_rng(session.seed)
    corpus = _on(recipe.device, *tokenise(tokenizer, [*sentences]))
    lessons = _on(recipe.device, *tokenise(tokenizer, [sentence.text for sentence in said]))
    truth = torch.tensor(
        [[float(label in s.labels) for label in labels] for s in said], device=recipe.device
    )
    for step in session.steps():
        words = _pick(rng, int(recipe.batch * (1 - _TEMPLATE_SHARE)), *corpus)
        ids, mask, meant = _pick(rng, int(recipe.batch * _TEMPLATE_SHARE), *lessons, truth)
        with autocast(recipe.device):
            loss = masked_word_loss(model, tokenizer, rng, *words)
            logits = model.meaning(ids, mask)
        loss = loss + functional.binary_cross_entropy_with_logits(logits.float(), meant)
        session.learn(loss)
        if step % _RECORD_EVERY == 0:
            session.record({"loss": float(loss.detach())})
    session.ema_into(model)
    return model.eval()


def tokenise(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask), each int64 [n, TOKENS]."""
    encoded = tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
    )
    return encoded["input_ids"], encoded["attention_mask"]


def masked_word_loss(
    model: Reader,
    tokenizer: PreTrainedTokenizerFast,
    rng: np.random.Generator,
    ids: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Cross-entropy of the words that were masked out (1810.04805, section 3.1, task 1)."""
    chance = torch.from_numpy(rng.random(ids.shape, np.float32)).to(ids.device)
    special = ids < len(_SPECIAL)
    hidden = (chance < _MASKED_SHARE) & ~special
    masked = ids.masked_fill(hidden & (chance < 0.9 * _MASKED_SHARE), tokenizer.mask_token_id)
    states = model.encoder(input_ids=masked, attention_mask=mask).last_hidden_state
    logits = model.masked.cls(states[hidden])  # the vocabulary is wide: only where it is asked
    return functional.cross_entropy(logits.float(), ids[hidden])


def _on(device: str, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.to(device) for tensor in tensors)


def _pick(rng: np.random.Generator, size: int, *columns: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The same random rows of each, on the device that they are on."""
    index = torch.from_numpy(rng.integers(0, len(columns[0]), size)).to(columns[0].device)
    return tuple(column[index] for column in columns)
