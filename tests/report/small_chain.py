"""A chain on disk, as its files are after a run: two stages of training, one of reinforcement learning, one to come."""

import collections
import html.parser
import json

PARENTS = {'pretrain': '', 'sft_thinking': 'pretrain', 'rl_thinking': 'sft_thinking', 'rl_instruct': 'sft_thinking'}
FINGERPRINTS = {'pretrain': 'aaaa000000000001', 'sft_thinking': 'bbbb000000000002', 'rl_thinking': 'cccc000000000003'}


class Page(html.parser.HTMLParser):
  """Text, style rules, elements, ids and classes of a page; checks that it is well formed and loads nothing."""

  def __init__(self, text):
    super().__init__()
    self.text, self.rules, self.elements, self.open = '', '', collections.Counter(), []
    self.ids, self.classes = set(), set()
    self.feed(text)
    assert not self.open

  def handle_starttag(self, tag, attributes):
    self.elements[tag] += 1
    given = dict(attributes)
    assert not any(name.startswith('on') or name in ('src', 'srcset', 'action') for name in given), given
    assert given.get('href', '#').startswith('#')
    assert given.get('id') not in self.ids
    self.ids |= {given['id']} if 'id' in given else set()
    self.classes |= set((given.get('class') or '').split())
    if tag not in ('meta', 'input', 'hr'):
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.handle_starttag(tag, attributes)
    self.open.pop()

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if 'style' in self.open:
      self.rules += data
    else:
      self.text += data


def lines(values):
  return ''.join(json.dumps(value) + '\n' for value in values)


def lineage(stage, parent='', steps=20, **changes):
  start = {'stage': parent, 'step': 20, 'fingerprint': FINGERPRINTS[parent]} if parent else None
  return {
      'stage': stage, 'size': 'tiny', 'steps': steps, 'finished': True, 'tokens_seen': 40_960, 'wall_seconds': 90.0,
      'parent': start, 'transform': '', 'imported': '', 'code_version': 'v1-7', 'carry': ['params'],
      'start_fingerprint': FINGERPRINTS[parent] if parent else 'ffff000000000000', 'end_fingerprint': FINGERPRINTS[stage],
      'devices': {'kind': 'TPU v6e', 'count': 4, 'processes': 1},
  } | changes  # fmt: skip


def training(losses):
  for step, loss in enumerate(losses):
    if step % 10 == 0:
      yield {'kind': 'eval', 'step': step, 'loss': loss, 'loss_by_source': {'code': loss + 1, 'facts': loss - 1}}
    seconds = 30.0 if step == 1 else 0.5  # the first step compiles
    values = {'loss': loss, 'step_seconds': seconds, 'data_seconds': 0.1, 'tokens_per_second': 4321.0, 'mfu': 0.25}
    if step % 5 == 0:
      by_layer = {'embedder': loss / 8, 'mlp_0-3': loss / 4}
      values |= {'layer_grad_norms': by_layer, 'layer_update_ratios': by_layer, 'z_loss': 0.125}
    if step:
      yield {'kind': 'train', 'step': step, **values}


def learning(rewards):
  for step, reward in enumerate(rewards):
    if step % 10 == 0:
      yield {'kind': 'eval', 'step': step, 'pass_rate': reward}
    values = {
        'reward': reward,
        'reward_pass_rate': reward / 2,
        'reward_thinking': 0.75,
        'loss': -0.01,
        'clip_fraction': 0.125,
    }
    yield {
        'kind': 'train',
        'step': step + 1,
        **values,
        'step_seconds': 5.0,
        'timing': {'rollout_seconds': 3.5, 'grading_seconds': 1.5},
    }


def results(stage, step, solved, problems='same problems', samples=()):
  return {
      'settings': {'suite': 'small_programs', 'problems': problems, 'answers': {'stage': stage, 'step': step}},
      'figures': {'solved': solved}, 'scored': 40, 'missing': {'p9': 'no compiler'},
      'results': {f'p{number}': sample for number, sample in enumerate(samples)},
  }  # fmt: skip


def answer(request, said, status='passed', reason='', tests=1.0):
  sample = {'sample': 0, 'answers': [said], 'ends': ['stop'], 'tokens': [17], 'messages': [], 'extracted': said}
  sample |= {'status': status, 'reason': reason, 'seconds': 0.1, 'figures': {'tests': tests}}
  prompt = {'text': '', 'messages': [{'role': 'user', 'content': request}], 'tools': [], 'stop': []}
  return {'figures': {}, 'prompt': prompt, 'samples': [sample]}


def trajectory(prompt, sample, reward, message='return x', **extra):
  steps = [
      {'step_id': 1, 'source': 'user', 'message': f'Task {prompt}'},
      {'step_id': 2, 'source': 'agent', 'message': message, 'reasoning_content': 'Let me think.',
       'metrics': {'completion_token_ids': [5, 6, 7], 'logprobs': [-0.1, -0.2, -0.3]}},
  ]  # fmt: skip
  known = {'prompt_id': prompt, 'sample': sample, 'version': 0, 'end': 'stop', 'reward': reward, 'text': message}
  notes = {'verdict': {'status': 'failed', 'reason': 'f(3): 4 is not 5', 'passed': 7, 'total': 20}, 'memorised': 2}
  return {
      'schema_version': 'ATIF-v1.5',
      'steps': steps,
      'extra': {**known, 'rewards': {'pass_rate': reward}, 'notes': notes, **extra},
  }


def group(prompt, rewards, **extra):
  asked = {'id': prompt, 'messages': [], 'checks': [], 'problem': {'tests': [{'input': '[3]', 'output': '5'}]}}
  return {
      'step': 0,
      'index': 0,
      'prompt': asked,
      'trajectories': [trajectory(prompt, k, r, **extra) for k, r in enumerate(rewards)],
  }


CORPUS = {
    'report': {
        'funnels': {
            'text: read': {'read': 1000, 'kept': 990, 'drops': {'not JSON': 10}, 'seen': {}},
            'text: deduplicate': {'read': 990, 'kept': 955, 'drops': {'duplicate': 35}, 'seen': {'held out': 50}},
            'made: make': {'read': 4000, 'kept': 12, 'drops': {'check: wrong': 3988}, 'seen': {}},
            'made: read': {'read': 12, 'kept': 12, 'drops': {}, 'seen': {}},
        },
        'duplicates': {'file': {'clusters': 4, 'documents': 39}, 'commit': {'clusters': 0, 'documents': 0}},
        'contaminated': [{'document': 'd', 'problem': 'p', 'evidence': 'e'}],
    }
}  # fmt: skip
RL = {
    'objective': 'grpo',
    'prompts_per_step': 2,
    'group_size': 3,
    'rewards': {'pass_rate': 1.0, 'overlong': 0.5, 'thinking': 0.0},
}
DECISION = {'scores': {'code': -1.0}, 'factors': {'code': 1.0}, 'reasons': {'code': 'plateau', 'facts': 'no score'}}


def files():
  """{path below the run: text} of the chain."""
  segment = {'examples': 30, 'rows': 60, 'tokens': 300, 'loss_weight': 1.0, 'samples': [], 'drops': {}, 'languages': {}}
  manifest = {
      'stage': 'sft_thinking',
      'shares': {'code': {'rows': 0.25, 'loss_weight': 0.375, 'epochs': 1.5}, 'facts': {'rows': 0.75}},
      'sources': {'code': {'train': {'segments': [segment, segment]}}},
  }  # fmt: skip
  config = lambda stage, parent='', **more: {
      'stage': stage,
      'size': 'tiny',
      'train': {'steps': 20},
      'init': {'stage': parent},
      **more,
  }
  rollouts = lines([group('easy', [0.25, 1.0, 0.5]), group('hard', [0.0, 0.0])])
  made = {
      'pretrain/config.json': config('pretrain'),
      'pretrain/lineage.json': lineage('pretrain'),
      'sft_thinking/config.json': config('sft_thinking', 'pretrain'),
      'sft_thinking/lineage.json': lineage(
          'sft_thinking', 'pretrain', transform='dense_to_loop', start_fingerprint='1' * 16
      ),
      'sft_thinking/evaluation/20/small_programs/results.json': results(
          'sft_thinking', 20, 40.0, samples=[answer('Double x.', '<think>\nEasy.\n</think>\nx * 2')]
      ),
      'rl_thinking/config.json': config('rl_thinking', 'sft_thinking', rl=RL),
      'rl_thinking/lineage.json': lineage('rl_thinking', 'sft_thinking', finished=False, steps=15),
      'rl_thinking/evaluation/15/small_programs/results.json': results('rl_thinking', 15, 62.5),
      'rows/sft_thinking/manifest.json': manifest,
      'documents/corpus.json': CORPUS,
  }  # fmt: skip
  texts = {path: json.dumps(value) for path, value in made.items()}
  return texts | {
      'pretrain/metrics.jsonl': lines(training([6.0 - 0.1 * step for step in range(21)])),
      'sft_thinking/metrics.jsonl': lines(training([3.0 - 0.1 * step for step in range(21)])),
      'sft_thinking/mixture.jsonl': lines(
          [
              {'step': 0, 'weights': {'code': 0.25, 'facts': 0.75}} | DECISION,
              {'step': 10, 'weights': {'code': 0.5, 'facts': 0.5}} | DECISION,
          ]
      ),
      'rl_thinking/metrics.jsonl': lines(learning([0.4 + 0.02 * step for step in range(15)])),
      'rl_thinking/rollouts/0.jsonl': rollouts,
  }
