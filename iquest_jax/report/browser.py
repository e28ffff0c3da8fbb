"""The section of sampled answers: prompt, thinking, answer, tests and reward, filtered by the style sheet alone."""

import re
from collections.abc import Sequence

from iquest_jax.report import samples
from iquest_jax.report.chain import Chain
from iquest_jax.report.markup import details, escape, figure, note, tag
from iquest_jax.report.samples import Said, Sample

_NAMES = {'user': 'prompt', 'assistant': 'answer', 'tool': 'tool answered', 'call': 'tool call'}
# Special tokens and tags of a chat, as they look once escaped.
_SPECIAL = re.compile(r'&lt;(?:\|\w+\||unk|/?(?:think|tool_call|tool_response))&gt;')
_OUTCOMES = (('all', ''), ('solved', 'yes'), ('not solved', 'no'))


def browser(chain: Chain) -> str:
  """Samples of every stage, each stage's by falling reward."""
  by_origin: dict[tuple[str, str], list[Sample]] = {}
  for stage in reversed(chain.started):  # the last stages are what one comes to read
    for sample in samples.of_stage(chain.files, stage):
      by_origin.setdefault((stage.name, sample.origin), []).append(sample)
  if not by_origin:
    return note('There are no sampled answers yet: no stage was evaluated, and none has rolled out.')
  choices = [f'{stage} · {origin}' for stage, origin in by_origin]
  rules = ''.join(
      f'.browser:has(#from{number}:checked) .sample:not(.from{number}){{display:none}}'
      for number in range(len(choices))
  )
  filters = _radios('from', ['all', *choices]) + _radios('end', [name for name, _ in _OUTCOMES])
  groups = []
  for number, ((stage, origin), found) in enumerate(by_origin.items()):
    shown = f'{escape(stage)} <small>{escape(origin)}, {len(found)} shown</small>'
    body = ''.join(_sample(sample, number) for sample in found)
    groups.append(f'<div class="group"><h3 class="sample from{number} yes no">{shown}</h3>{body}</div>')
  said = (
      f'<p>By falling reward or share of tests passed. Of roll-outs, up to {samples.STEPS} steps, {samples.GROUPS} prompts '
      f'per step and {samples.ANSWERS} answers per prompt; of a suite, up to {samples.PROBLEMS} problems.</p>'
  )
  return f'{said}<style>{rules}</style><div class="browser">{filters}{"".join(groups)}</div>'


def _radios(name: str, choices: Sequence[str]) -> str:
  """Radio buttons; the first, `all`, hides nothing. The others have the ids <name>0, <name>1, ..."""
  buttons = ''.join(
      f'<label><input type="radio" name="{name}" id="{name}{number if number >= 0 else "all"}"'
      f'{" checked" if number < 0 else ""}><span>{escape(choice)}</span></label>'
      for number, choice in enumerate(choices, start=-1)
  )
  return f'<fieldset class="filter">{buttons}</fieldset>'


def _sample(sample: Sample, origin: int) -> str:
  kind = f'sample from{origin} {"" if sample.solved is None else "yes" if sample.solved else "no"}'
  state = 'up' if sample.solved else 'down' if sample.score is None or sample.score <= 0 else 'part'
  score = '–' if sample.score is None else f'{sample.score:.2f}'
  asked = next((said.text for said in reversed(sample.prompt) if said.role == 'user'), '') or sample.problem
  title = ' '.join(asked[:2000].split())[-240:]
  place = f'step {sample.step:,} · {sample.problem}' + (f' · sample {sample.number}' if sample.number else '')
  summary = f'{tag(score, state)}<span class="asked">{escape(title)}</span><small>{escape(place)}</small>'
  body = ''.join(_said(said) for said in sample.prompt) + '<hr>' + ''.join(_said(said) for said in sample.answer)
  facts = [('reward' if sample.origin == 'roll-out' else 'score', figure(sample.score))]
  facts += [(name, figure(value)) for name, value in sample.rewards.items()]
  facts += [('tokens', f'{sample.tokens:,}')] * bool(sample.tokens) + [('ended by', escape(sample.end))] * bool(
      sample.end
  )
  body += (
      '<dl class="facts">'
      + ''.join(f'<div><dt>{escape(name)}</dt><dd>{value}</dd></div>' for name, value in facts)
      + '</dl>'
  )
  if sample.tests:
    body += (
        '<ul class="tests">' + ''.join(f'<li>{escape(samples.clipped(test))}</li>' for test in sample.tests) + '</ul>'
    )
  return details(summary, body, kind)


def _said(said: Said) -> str:
  text = _SPECIAL.sub(lambda match: f'<mark>{match[0]}</mark>', escape(samples.clipped(said.text)))
  role = said.role if said.role in ('system', 'user', 'assistant', 'tool', 'call', 'thinking') else 'user'
  return f'<div class="said {role}"><h5>{escape(_NAMES.get(said.role, said.role))}</h5><pre>{text or " "}</pre></div>'
