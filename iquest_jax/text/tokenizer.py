"""Byte-level BPE with the special tokens of the report: training, the file, encoding.

Ids: unk 0, bos 1, eos 2 (bos is never added), the special tokens, the tags, 256 bytes, merges.
Source: the special tokens of the released tokenizer, which `Tokenizer.load` reads too.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable

import tokenizers
from etils import epath
from tokenizers import decoders, models, pre_tokenizers, trainers

from iquest_jax.errors import UserError
from iquest_jax.run_folder import write_whole
from iquest_jax.text import sentencepiece

IM_START, IM_END, END_OF_TEXT = '<|im_start|>', '<|im_end|>', '<|endoftext|>'
FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE = '<|fim_prefix|>', '<|fim_suffix|>', '<|fim_middle|>'
REPO_NAME, FILE_SEP = '<|repo_name|>', '<|file_sep|>'
RESERVED = ('<unk>', '<s>', '</s>')
SPECIAL = (IM_START, IM_END, END_OF_TEXT, FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE, REPO_NAME, FILE_SEP)
TAGS = tuple(f'<{slash}{name}>' for name in ('think', 'tools', 'tool_call', 'tool_response') for slash in ('', '/'))
# What loaded tokenizers most often do not give back: blanks at the ends and in runs, other spaces, line ends, compatibility
# forms, decomposed letters, the sign that SentencePiece uses for a blank, characters of several code points, NUL.
PROBES = (
    ' x', 'x ', '  x  =  1', '\tx', 'x\n\n\n  y\n', 'x\r\ny', 'x\u00a0y\u2003z\u3000', '\ufb01 \u00bd \u2167 \uff21',
    '\u00e9 e\u0301', '\u2581x\u2581\u2581y', '\U0001f469\u200d\U0001f467 \u6f22\u5b57', '\U0010ffff', 'a\0b',
    'x <think>y</think> z',
)  # fmt: skip
SMALLEST = len(RESERVED) + len(SPECIAL) + len(TAGS) + 256


class Tokenizer:
  """Text to ids and back. Text does not become special tokens unless asked for: see `encode`."""

  def __init__(self, serialized: str):
    """Takes the text of a tokenizer.json; raises ValueError if a special token is missing."""
    self._without_special = tokenizers.Tokenizer.from_str(serialized)
    self._without_special.encode_special_tokens = True
    self._with_special = tokenizers.Tokenizer.from_str(serialized)
    self._with_special.encode_special_tokens = False
    if missing := [token for token in SPECIAL if self._without_special.token_to_id(token) is None]:
      raise ValueError(f'the special token {missing[0]} is missing')
    self._special = {token: self._without_special.token_to_id(token) for token in (*RESERVED, *SPECIAL)}

  @classmethod
  def train(cls, texts: Iterable[str], vocab_size: int) -> 'Tokenizer':
    """Trains on texts; the same texts give the same file, byte for byte.

    Raises:
      UserError: the vocabulary is too small for the bytes and the special tokens.
    """
    if vocab_size < SMALLEST:
      raise UserError(f'tokenizer: model.vocab must be at least {SMALLEST} (bytes, special tokens), got {vocab_size}')
    inner = tokenizers.Tokenizer(models.BPE(unk_token='<unk>'))
    inner.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*RESERVED, *SPECIAL, *TAGS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    # The trainer marks every token it reserves as special; tags are not special, which only the file can express.
    serialized = json.loads(inner.to_str())
    for token in serialized['added_tokens']:
      token['special'] = token['content'] not in TAGS
    return cls(json.dumps(serialized))

  @classmethod
  def load(cls, path: str | os.PathLike) -> 'Tokenizer':
    """Reads a tokenizer.json, or a SentencePiece model if the name ends with .model.

    Raises:
      UserError: the file is missing, or it is not a tokenizer with the special tokens.
    """
    try:
      if pathlib.Path(path).suffix == '.model':
        serialized = sentencepiece.to_tokenizer_json(path, SPECIAL)
      else:
        serialized = epath.Path(path).read_text(encoding='utf-8')
    except FileNotFoundError:
      raise UserError(f'tokenizer: {path} is missing; python -m launch.prepare writes it') from None
    try:
      return cls(serialized)
    except Exception as error:  # the Rust side raises bare Exception
      raise UserError(f'tokenizer: {path} is not a usable tokenizer: {error}') from error

  def save(self, path: str | os.PathLike) -> None:
    """Writes the tokenizer.json atomically."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, self.to_str())

  def to_str(self) -> str:
    """The canonical text of tokenizer.json."""
    return self._with_special.to_str(pretty=True)

  def encode(self, text: str, allow_special: bool = False) -> list[int]:
    """Ids of a text. Tags such as <think> always become their own ids, since a model writes them as text.

    Args:
      allow_special: whether `<|im_end|>` and the like in the text become special tokens. False for documents, which
        anyone may have written; True for a prompt that the user types.
    """
    inner = self._with_special if allow_special else self._without_special
    # A batch of one: only batches can leave out the offsets, which cost a third of the time.
    return inner.encode_batch_fast([text], add_special_tokens=False)[0].ids

  def decode(self, ids: Iterable[int]) -> str:
    """Text of ids, special tokens included."""
    return self._with_special.decode(list(ids), skip_special_tokens=False)

  def round_trip_report(self, texts: Iterable[str]) -> list[str]:
    """The texts that do not decode to themselves; none for tokenizers trained here, whatever the texts."""
    return [text for text in texts if self.decode(self.encode(text)) != text]

  def id(self, token: str) -> int:
    """Id of a reserved or special token, e.g. '<|im_end|>'; KeyError for any other."""
    return self._special[token]

  @property
  def ends(self) -> tuple[int, ...]:
    """Ids of the special tokens that end a text, in the order of the released configuration."""
    ids = (self._special[token] for token in (RESERVED[2], IM_END, END_OF_TEXT))
    return tuple(id for id in ids if id is not None)

  @property
  def vocab_size(self) -> int:
    """One more than the largest id; ids may have gaps."""
    return max(self._with_special.get_vocab(with_added_tokens=True).values()) + 1

  @property
  def fingerprint(self) -> str:
    """SHA-256 (hex) of the canonical file; identifies the tokenizer that rows were made with."""
    return hashlib.sha256(self.to_str().encode()).hexdigest()
