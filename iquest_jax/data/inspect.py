"""Shows packed rows as the model reads them: text, special tokens, borders of segments, and what is learned, in colour."""

import pathlib
from collections.abc import Iterator

import numpy as np
from rich.console import Console, Group
from rich.rule import Rule
from rich.text import Text

from iquest_jax.data.rows import manifest as manifest_lib
from iquest_jax.data.rows.packing import Row
from iquest_jax.data.rows.read import Rows
from iquest_jax.errors import UserError, check_name
from iquest_jax.text.tokenizer import RESERVED, SPECIAL, TAGS, Tokenizer

_COMMAND = 'python -m launch.prepare'
_LEARNED, _NOT_LEARNED, _IN_PART = 'default', 'dim', 'italic'
_SPECIAL, _TAG, _BORDER = 'bold magenta', 'cyan', 'blue'
# What would move the cursor or turn the text around is shown as a symbol.
_VISIBLE = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {0x7F: 0x2421}
_VISIBLE |= dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)


def show(rows_dir: pathlib.Path, tokenizer: Tokenizer, console: Console, source: str = '', count: int = 2) -> None:
  """Prints training rows of each source of a stage, or of one: `count` each, evenly spread.

  Args:
    rows_dir: <workdir>/rows/<stage>, with a manifest.json.

  Raises:
    UserError: there are no rows, they were made with another tokenizer, or they have no such source.
  """
  manifest = manifest_lib.read(rows_dir)
  if not manifest:
    raise UserError(f'inspect: {rows_dir} has no rows; name the folder of a stage, as in runs/7b/rows/midtrain_32k')
  sources = manifest['sources']
  if source:
    check_name('inspect: source', source, sources)
    sources = [source]
  manifest_lib.check_manifest(rows_dir, sources, manifest['context'], tokenizer.fingerprint, _COMMAND)
  console.print(legend())
  for name in sorted(sources):
    rows = Rows(rows_dir, name, 'train', _COMMAND, manifest)
    for place in dict.fromkeys(number * len(rows) // count for number in range(count)):
      row = rows[place]
      console.print()
      console.print(Rule(Text(f'{name} · row {place:,} of {len(rows):,}', 'bold'), style='bold', characters='━'))
      console.print(Text(summary(row), 'bold'), justify='center')
      console.print(render(row, tokenizer), soft_wrap=True)


def legend() -> Text:
  """What the colours mean."""
  parts = (('learned', _LEARNED), ('not learned', _NOT_LEARNED), (SPECIAL[0], _SPECIAL), (TAGS[0], _TAG))
  return Text('   ').join(Text(text, style) for text, style in parts)


def summary(row: Row) -> str:
  """Tokens, segments and the share that is learned, in a line."""
  used, learned = int((row['segment_ids'] > 0).sum()), int((row['loss_weights'] > 0).sum())
  segments = int(row['segment_ids'].max(initial=0))
  padding = len(row['tokens']) - used
  line = f'{used:,} tokens · {segments:,} segment{"" if segments == 1 else "s"} · {_share(learned, used)} learned'
  return f'{line} · {padding:,} of padding' if padding else line


def render(row: Row, tokenizer: Tokenizer) -> Group:
  """A row: a rule and a text per segment. Text is dim where its weight is 0, italic where it is neither 0 nor 1."""
  marked, parts = _marked(tokenizer), []
  for number, (start, end) in enumerate(_runs(row['segment_ids']), 1):
    if not row['segment_ids'][start]:
      continue
    weights = row['loss_weights'][start:end]
    title = f'segment {number} · {end - start:,} tokens · {_share(int((weights > 0).sum()), end - start)} learned'
    parts.append(Rule(Text(title, _BORDER), style=_BORDER, align='left'))
    parts.append(_text(row['tokens'][start:end], weights, marked, tokenizer))
  return Group(*parts)


def visible(text: str) -> str:
  """A text in which control characters, and those that turn the direction of writing, are symbols."""
  return text.translate(_VISIBLE)


def _text(tokens: np.ndarray, weights: np.ndarray, marked: dict[int, tuple[str, str]], tokenizer: Tokenizer) -> Text:
  """The text of a segment. Tokens are decoded together as far as their style is one, since a character may be several."""
  text, kinds = Text(), np.fromiter((token if token in marked else -1 for token in tokens.tolist()), np.int64, len(tokens))
  for start, end in _runs(np.stack([kinds, weights], 1)):
    weight = weights[start]
    style = _NOT_LEARNED if weight == 0 else _LEARNED if weight == 1 else _IN_PART
    if kinds[start] >= 0:
      name, colour = marked[kinds[start]]
      text.append(name * (end - start), f'{style} {colour}' if style != _LEARNED else colour)
    else:
      text.append(visible(tokenizer.decode(tokens[start:end].tolist())), style)
  return text


def _marked(tokenizer: Tokenizer) -> dict[int, tuple[str, str]]:
  """{id: (name, style)} of special tokens and tags."""
  ids = {tokenizer.id(token): (token, _SPECIAL) for token in (*RESERVED, *SPECIAL)}
  for tag in TAGS:
    if len(encoded := tokenizer.encode(tag)) == 1:
      ids[encoded[0]] = (tag, _TAG)
  return ids


def _runs(values: np.ndarray) -> Iterator[tuple[int, int]]:
  """(start, end) of the longest stretches of equal values (rows of values, if it is a table)."""
  if not len(values):
    return iter(())
  changes = values[1:] != values[:-1]
  starts = 1 + np.flatnonzero(changes.any(1) if values.ndim > 1 else changes)
  bounds = [0, *starts.tolist(), len(values)]
  return zip(bounds, bounds[1:])


def _share(part: int, whole: int) -> str:
  return f'{part / max(whole, 1):.0%}'
