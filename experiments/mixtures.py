"""The mixture of each stage, in billions of tokens per source. iquest_jax/data/sources.py defines the sources.

The loader uses the ratios; the sum sets the length of a stage. Tables without published numbers are ours.
"""

# ours: the report gives the order, general text and then broad code, and names transitions, but gives no shares.
PRETRAIN_GENERAL = {'web_text': 4200, 'code': 1600, 'facts': 200}
PRETRAIN_CODE = {'web_text': 1800, 'code': 3800, 'transitions': 200, 'facts': 200}

# ours: beside the broad code at full size. arXiv 2512.13472 finds pairs of one function in two languages to help most; tiny
# has none, as its corpus needs no second language's toolchain.
PAIRS = {'parallel': 40}

# ours: the report says "high-quality code"; a little text and facts prevent forgetting.
ANNEAL = {'code_high_quality': 200, 'facts': 25, 'web_text': 25}

# Report, table of the mid-training mixture, stages 2.1 (32k) and 2.2 (128k); each sums to 300.
MIDTRAIN_32K = {
    'reasoning_qa': 175,
    'agent_trajectories': 10,
    'commits': 5,
    'file_level': 35,
    'repository_level': 5,
    'stage1': 70,
}
MIDTRAIN_128K = {
    'reasoning_qa': 65,
    'agent_trajectories': 110,
    'commits': 35,
    'file_level': 5,
    'repository_level': 35,
    'stage1': 50,
}

# ours: the shares. The report gives three curriculum phases: format and basic instructions, specialised knowledge, the
# hardest samples; with replay of pre-training text throughout.
SFT_INSTRUCT = (
    {'chat_instruct': 6, 'code_edit': 2, 'replay': 2},
    {'chat_instruct': 4, 'code_edit': 4, 'replay': 2},
    {'chat_instruct': 3, 'code_edit': 6, 'replay': 1},
)
# ours: beside these at full size, in every phase. The report names competitive programming and repository engineering;
# their examples are longer than a row of tiny.
SFT_TASKS = {'problems': 1, 'repository_edit': 1}
SFT_THINKING = (
    {'chat_thinking': 6, 'reasoning_thinking': 2, 'replay': 2},
    {'chat_thinking': 4, 'reasoning_thinking': 4, 'replay': 2},
    {'chat_thinking': 2, 'reasoning_thinking_hard': 7, 'replay': 1},
)


def tokens(*tables: dict[str, float]) -> float:
  """Total tokens of one or more tables (not billions)."""
  return 1e9 * sum(sum(table.values()) for table in tables)


def sources(*tables: dict[str, float]) -> list[str]:
  """Names of the sources of some tables, in order of their first."""
  return list(dict.fromkeys(source for table in tables for source in table))


def staged(steps: int, *tables: dict[str, float]):
  """The schedule ((from_step, ((source, weight), ...)), ...): the tables in turn, steps in proportion to their tokens."""
  total, schedule, seen = tokens(*tables), [], 0.0
  for table in tables:
    schedule.append((round(steps * seen / total), tuple(table.items())))
    seen += tokens(table)
  return tuple(schedule)
