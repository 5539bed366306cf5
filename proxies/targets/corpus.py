"""Text for targets, divided by document into what is trained on, tuned on, and touched once."""

from __future__ import annotations

import re
import sysconfig
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from ...dsl.errors import did_you_mean
from ..task_error import TaskError
from ..text import SOURCES, documents, fold

# Residues of a document's place in the sorted list, modulo 10. Proxies train on the speeches of residues 0 to 5 and 7
# and 8 too; on those of 9, which are tested here, nothing trains.
PARTS = {"train": (0, 1, 2, 3, 4, 5, 7, 8), "validation": (6,), "test": (9,)}
#: Text that no proxy reads: the modules of Python's own library.
STDLIB = "stdlib"
#: Of it not: installed packages, tests, and modules that are generated tables or help texts, all alike.
_OTHER = re.compile(r"(^|/)(site-packages|tests?|idlelib|lib2to3|encodings|pydoc_data)/|_sysconfigdata")
_MOST = 200_000  # bytes of a module, so that none is most of a part
_FOREIGN = 0.2  # share of bytes beyond ASCII, all of which become one symbol, from which on a text is refused
_PIECES = 100  # a single file is cut into so many documents
_LEAST = 100_000  # bytes; less text leaves too little to measure on


def corpus_names() -> tuple[str, ...]:
    """The texts that are there by name.

    >>> corpus_names()
    ('speeches', 'code', 'stdlib')
    """
    return (*SOURCES, STDLIB)


@cache
def corpus(source: str, part: str) -> bytes:
    """The text of a source, its documents end to end, as bytes folded to 128 symbols.

    Args:
        source: One of `corpus_names`, or the path of a text file or of a folder of `.txt` files. A file is cut into a
            hundred pieces, which count as its documents.
        part: "train", "validation" or "test"; parts share no document.

    Raises:
        TaskError: In one line, for a source that is not there, is no text, or is too short.
    """
    pieces = _pieces(source)
    return fold(b"\n".join(piece for i, piece in enumerate(pieces) if i % 10 in PARTS[part]))


@cache
def by_document(source: str, part: str) -> tuple[bytes, ...]:
    """The documents of a part, one by one; raises what `corpus` does."""
    return tuple(fold(piece) for i, piece in enumerate(_pieces(source)) if i % 10 in PARTS[part])


def _pieces(source: str) -> list[bytes]:
    if source in SOURCES:
        return [path.read_bytes() for path in documents(source)]
    if source == STDLIB:
        root = Path(sysconfig.get_path("stdlib"))
        files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.py"))
        return [(root / name).read_bytes()[:_MOST] for name in files if not _OTHER.search(name)]
    return _own(source)


def _own(source: str) -> list[bytes]:
    path = Path(source)
    try:
        if path.is_dir():
            pieces = [file.read_bytes() for file in sorted(path.glob("*.txt"))]
            if len(pieces) < 10:
                raise TaskError(
                    f"text {source!r}: a folder of text holds ten .txt files at least, this one {len(pieces)}"
                )
        elif path.is_file():
            whole = path.read_bytes()
            cuts = np.linspace(0, len(whole), _PIECES + 1).astype(int)
            pieces = [whole[a:b] for a, b in pairwise(cuts)]
        else:
            raise TaskError(f"unknown text {source!r}: no such file, and {did_you_mean(source, corpus_names())}")
    except OSError as error:
        raise TaskError(f"text {source!r}: {error.strerror or error}") from None
    if any(b"\0" in piece for piece in pieces):
        raise TaskError(f"text {source!r}: it holds null characters, so it is no text")
    if (size := sum(map(len, pieces))) < _LEAST:
        raise TaskError(f"text {source!r}: {size:,} bytes are too few to train and measure on; give {_LEAST:,}")
    sample = np.frombuffer(b"".join(piece[:10_000] for piece in pieces), np.uint8)
    if (foreign := float((sample > 127).mean())) > _FOREIGN:
        raise TaskError(
            f"text {source!r}: {foreign:.0%} of its bytes are beyond ASCII, and these models read them as one symbol"
        )
    return pieces


@cache
def tokens(source: str, part: str, vocabulary: int) -> np.ndarray:
    """The part as symbols, (N,) uint8 bytes for a vocabulary of 128, else uint16 of a byte-pair encoding that is
    trained on the training part.

    >>> tokens("speeches", "validation", 128).dtype
    dtype('uint8')
    """
    text = corpus(source, part)
    if vocabulary == 128:
        return np.frombuffer(text, np.uint8)
    encoding = _byte_pairs(source, vocabulary)
    pieces = [text[i : i + 100_000].decode("ascii", "replace") for i in range(0, len(text), 100_000)]
    return np.concatenate([np.asarray(one.ids, np.uint16) for one in encoding.encode_batch(pieces)])


@cache
def _byte_pairs(source: str, vocabulary: int):  # type: ignore[no-untyped-def]
    """A byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) of the training text."""
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError:
        raise TaskError("a target on word pieces needs the package tokenizers: pip install 'stepsmith[bpe]'") from None
    encoding = Tokenizer(models.BPE())
    encoding.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoding.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    encoding.train_from_iterator((d.decode("ascii", "replace") for d in by_document(source, "train")), trainer)
    return encoding
