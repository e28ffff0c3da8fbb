"""A SentencePiece model as the text of a tokenizer.json, so that one tokenizer class serves both.

SentencePiece's BPE merges the neighbours whose union is the piece of the highest score; here every way to cut a piece in
two is a merge, ranked by that score. Pieces of bytes stand for characters without a piece. Control symbols and special
tokens are only read if the caller asks for it; other symbols that the model defines are always read as themselves.

Two things cannot be expressed in tokenizer.json: where a piece overlaps itself ('aba' in 'ababa'), equal scores are not
resolved from the left but by the longer left part; and where a model puts a blank before a text, it also puts one after
each symbol inside, and a symbol of several blanks does not take it in.
"""

import base64
import json
import pathlib
from typing import Any

from iquest_jax.errors import UserError

_BLANK = '▁'


def to_tokenizer_json(path: str | pathlib.Path, special: tuple[str, ...]) -> str:
  """The text of the tokenizer.json that encodes as a SentencePiece model does.

  Tokens that were added to the model are read from the tokenizer_config.json beside it, if there is one.

  Args:
    path: of the model (BPE).
    special: symbols that text does not become, as if they were control symbols.

  Raises:
    UserError: the file is missing, is not such a model, or uses what cannot be expressed.
  """
  from sentencepiece import sentencepiece_model_pb2  # what only preparing needs

  path = pathlib.Path(path)
  model = sentencepiece_model_pb2.ModelProto()
  try:
    model.ParseFromString(path.read_bytes())
  except FileNotFoundError:
    raise UserError(f'tokenizer: {path} is missing') from None
  except Exception as error:  # protobuf's own
    raise UserError(f'tokenizer: {path} is not a SentencePiece model: {error}') from None
  _check(path, model)
  piece = sentencepiece_model_pb2.ModelProto.SentencePiece
  vocabulary = {one.piece: index for index, one in enumerate(model.pieces)}
  if len(vocabulary) != len(model.pieces):
    raise UserError(f'tokenizer: {path} has a piece twice; use another model')
  added = {
      index: (one.piece, one.type != piece.USER_DEFINED or one.piece in special)
      for index, one in enumerate(model.pieces)
      # A symbol with a blank that is not written as the model writes blanks matches nothing.
      if one.type in (piece.UNKNOWN, piece.CONTROL, piece.USER_DEFINED) and ' ' not in one.piece
  }  # fmt: skip
  for index, content, is_special in _added_beside(path):
    added[index] = (content, is_special or content in special)
    vocabulary.setdefault(content, index)
  scores = {one.piece: one.score for one in model.pieces if one.type == piece.NORMAL}
  spec = model.normalizer_spec
  return json.dumps({
      'version': '1.0',
      'truncation': None,
      'padding': None,
      'added_tokens': [
          _added_token(index, content, is_special, spec.add_dummy_prefix)
          for index, (content, is_special) in sorted(added.items())
      ],
      'normalizer': {'type': 'Sequence', 'normalizers': _normalizers(spec)},
      'pre_tokenizer': None,
      'post_processor': None,
      'decoder': {'type': 'Sequence', 'decoders': _decoders(spec)},
      'model': {
          'type': 'BPE',
          'dropout': None,
          'unk_token': model.pieces[model.trainer_spec.unk_id].piece,
          'continuing_subword_prefix': None,
          'end_of_word_suffix': None,
          'fuse_unk': True,
          'byte_fallback': model.trainer_spec.byte_fallback,
          'ignore_merges': False,
          'vocab': vocabulary,
          'merges': _merges(scores),
      },
  })  # fmt: skip


def _added_token(index: int, content: str, is_special: bool, adds_blank: bool) -> dict[str, Any]:
  """A symbol, looked for in the text as it is; one of blanks after blanks were replaced, unless that adds one to it too."""
  replaced = _BLANK in content and not adds_blank
  return {
      'id': index, 'content': content if replaced else content.replace(_BLANK, ' '), 'single_word': False, 'lstrip': False,
      'rstrip': False, 'normalized': replaced, 'special': is_special,
  }  # fmt: skip


def _check(path: pathlib.Path, model: Any) -> None:
  trainer = model.trainer_spec
  if not model.pieces:
    raise UserError(f'tokenizer: {path} is not a SentencePiece model: it has no pieces')
  if trainer.model_type != trainer.BPE:
    kind = trainer.ModelType.Name(trainer.model_type)
    raise UserError(f'tokenizer: {path} must be a SentencePiece model of type BPE, got {kind}; use another model')
  unused = sum(one.type == one.UNUSED for one in model.pieces)
  if trainer.treat_whitespace_as_suffix or unused or not model.normalizer_spec.escape_whitespaces:
    raise UserError(
        f'tokenizer: {path} has unused pieces, blanks as suffixes or blanks that are kept, which cannot be expressed as a '
        'tokenizer.json; use another model'
    )


def _added_beside(path: pathlib.Path) -> list[tuple[int, str, bool]]:
  """(id, content, is special) of each token that the tokenizer_config.json beside a model adds to it."""
  config = path.with_name('tokenizer_config.json')
  if not config.exists():
    return []
  try:
    decoder = json.loads(config.read_text(encoding='utf-8')).get('added_tokens_decoder', {})
    return [(int(index), token['content'], bool(token.get('special'))) for index, token in decoder.items()]
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f'tokenizer: {config} is damaged ({error}); download it again or remove it') from None


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
  """Every way to cut a piece into two pieces, the highest score first."""
  merges = []
  for piece, _ in sorted(scores.items(), key=lambda one: -one[1]):
    cuts = [(piece[:at], piece[at:]) for at in range(len(piece) - 1, 0, -1)]
    merges += [cut for cut in cuts if cut[0] in scores and cut[1] in scores]
  return merges


def _normalizers(spec: Any) -> list[dict[str, Any]]:
  found = []
  if spec.precompiled_charsmap:
    table = base64.b64encode(spec.precompiled_charsmap).decode()
    found.append({'type': 'Precompiled', 'precompiled_charsmap': table})
  if spec.remove_extra_whitespaces:
    found.append({'type': 'Replace', 'pattern': {'Regex': r'\A +| +\z'}, 'content': ''})
    found.append({'type': 'Replace', 'pattern': {'Regex': ' {2,}'}, 'content': ' '})
  if spec.add_dummy_prefix:
    found.append({'type': 'Prepend', 'prepend': _BLANK})
  return [*found, {'type': 'Replace', 'pattern': {'String': ' '}, 'content': _BLANK}]


def _decoders(spec: Any) -> list[dict[str, Any]]:
  blanks = {'type': 'Replace', 'pattern': {'String': _BLANK}, 'content': ' '}
  found = [blanks, {'type': 'ByteFallback'}, {'type': 'Fuse'}]
  return found + ([{'type': 'Strip', 'content': ' ', 'start': 1, 'stop': 0}] if spec.add_dummy_prefix else [])
