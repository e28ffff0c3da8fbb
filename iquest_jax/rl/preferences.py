"""Preference pairs: files of chosen and rejected answers to the ids that DPO compares.

A line is one of
  a Preference (data/documents.py)     messages, chosen, rejected, and id, rule, tools if there are any
  a published pair                     chosen and rejected as text after `prompt`, which is text or messages; or as
                                       messages, which are the same but for the last

Whatever cannot be used is a Drop with its rule, before the first step. Source of the published forms: the data of TRL,
UltraFeedback and HH-RLHF as converted there.
"""

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from iquest_jax.data.documents import Drop, Preference, content_id, from_record
from iquest_jax.data.read import records
from iquest_jax.errors import UserError
from iquest_jax.infer import text
from iquest_jax.rl.dpo import Pair
from iquest_jax.text import chat, example
from iquest_jax.text.example import SpecialToken
from iquest_jax.text.tokenizer import IM_END, Tokenizer


@dataclasses.dataclass(frozen=True)
class PreferenceSet:
  """Pairs in order of the files, and what was left out.

  Attributes:
    rules: {id: rule}, what each pair teaches, '' if unknown.
  """

  pairs: tuple[Pair, ...]
  rules: Mapping[str, str]
  drops: tuple[Drop, ...]

  @property
  def dropped(self) -> dict[str, int]:
    """How many lines each rule left out."""
    return dict(sorted(collections.Counter(drop.rule for drop in self.drops).items()))


def load(paths: Sequence[str | os.PathLike], tokenizer: Tokenizer, *, context: int) -> PreferenceSet:
  """Reads the pairs of files of JSONL or Parquet.

  Args:
    context: tokens of a row, in which both sequences of a pair must lie.

  Raises:
    UserError: a file is missing or unreadable, or no pair can be used.
  """
  pairs: dict[str, Pair] = {}
  rules: dict[str, str] = {}
  drops: list[Drop] = []
  for path in paths:
    for where, record in records.records(path):
      preference = record if isinstance(record, Drop) else _preference(record, where)
      made = preference if isinstance(preference, Drop) else _fitting(tokenizer, preference, context)
      if isinstance(made, Pair) and made.id in pairs:
        made = Drop('pair: duplicate id', f'{where}: {made.id}')
      if isinstance(made, Drop):
        drops.append(made)
      else:
        pairs[made.id], rules[made.id] = made, preference.rule
  found = PreferenceSet(tuple(pairs.values()), rules, tuple(drops))
  if not pairs:
    counts = '; '.join(f'{rule}: {count}' for rule, count in found.dropped.items()) or 'the files are empty'
    raise UserError(f'rl: {", ".join(map(str, paths))}: no pair can be used ({counts}); fix the files or name others')
  return found


def encode(tokenizer: Tokenizer, preference: Preference) -> Pair:
  """The ids of a pair. An answer is encoded as text, so it never holds a special token but the one that closes its turn.

  Raises:
    UserError: a system message is not the first.
  """
  answer = lambda said: example.build(tokenizer, [(said, 1.0), (SpecialToken(IM_END), 1.0)]).tokens
  prompt = text.turn(tokenizer, preference.messages, preference.tools)
  ids = (prompt, answer(preference.chosen), answer(preference.rejected))
  return Pair(preference.id, *(tuple(map(int, part)) for part in ids))


def _fitting(tokenizer: Tokenizer, preference: Preference, context: int) -> Pair | Drop:
  if preference.chosen == preference.rejected:
    return Drop('pair: equal answers', preference.id)
  try:
    pair = encode(tokenizer, preference)
  except UserError as error:
    return Drop('pair: malformed messages', f'{preference.id}: {error}')
  length = 2 * len(pair.prompt) + len(pair.chosen) + len(pair.rejected)
  if length > context:
    return Drop('pair: too long', f'{preference.id}: {length} tokens together, at most {context}')
  return pair


def _preference(record: Mapping[str, Any], where: str) -> Preference | Drop:
  try:
    ours = record if 'messages' in record else _published(record)
    known = {field.name for field in dataclasses.fields(Preference)}
    fields = {'id': content_id(repr(ours['messages']), str(ours.get('chosen')), str(ours.get('rejected'))), **ours}
    kept = {name: value for name, value in fields.items() if name in known and value is not None}
    return from_record({**kept, 'kind': record.get('kind', 'preference')})
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    return Drop('pair: malformed', f'{where}: {error}')


def _published(record: Mapping[str, Any]) -> dict[str, Any]:
  """The fields of a Preference from those of a published pair; ValueError if it is none."""
  chosen, rejected, prompt = (record.get(name) for name in ('chosen', 'rejected', 'prompt'))
  fields = {name: record[name] for name in ('id', 'rule', 'tools') if name in record}
  if isinstance(chosen, list) and isinstance(rejected, list):
    if not chosen or not rejected or chosen[:-1] != rejected[:-1]:
      raise ValueError('"chosen" and "rejected" must be the same messages but for the last')
    if {chosen[-1].get('role'), rejected[-1].get('role')} != {'assistant'}:
      raise ValueError('the last message of "chosen" and "rejected" must be the assistant\'s')
    # The prompt may be given apart, as messages or as the text of the first.
    before = prompt if isinstance(prompt, list) and not chosen[:-1] else chosen[:-1]
    before = before or [{'role': 'user', 'content': prompt}]
    return fields | {
        'messages': before, 'chosen': chat.rendered(chosen[-1])[1], 'rejected': chat.rendered(rejected[-1])[1]
    }  # fmt: skip
  if not prompt:
    raise ValueError('neither "messages" nor "prompt"')
  messages = [{'role': 'user', 'content': prompt}] if isinstance(prompt, str) else prompt
  return fields | {'messages': messages, 'chosen': chosen, 'rejected': rejected}
