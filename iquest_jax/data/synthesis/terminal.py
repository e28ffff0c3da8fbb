"""Tasks for a shell: files to begin with, a check of the goal, and commands that reach it.

Everything runs in the sandbox. The check must fail before anything is done and after stubs. It must pass after the
solution, and after a second solution, which was written by a request that saw only the task and the names of the
files. Where the contents of the files are varied, both must still leave the same files: commands that write what the
check wants to see, whatever the files hold, do not.
"""

import dataclasses
import re

from iquest_jax.data.documents import Conversation, Drop, File
from iquest_jax.data.synthesis import answers, chance, execution, turns
from iquest_jax.data.synthesis.domain import Domain, Tools
from iquest_jax.sandbox import languages
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.runner import Done, Step
from iquest_jax.text import extract

CHECKS = ('the goal is not reached at first', 'stubs do not reach the goal', 'the commands reach the goal',
          'commands from the task alone reach the goal', 'both leave the same files, on varied ones too')  # fmt: skip
_SECTIONS = ('Task', 'Setup', 'Check', 'Solution')
_LONGEST = 8000  # characters of a script
_LISTING = 'find . -type f | LC_ALL=C sort | head -n 40'
# Everything in the folder: kinds, permissions, links and contents.
_STATE = (
    'find . -mindepth 1 -printf "%P %y %m %l\\n" | LC_ALL=C sort; '
    'find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum'
)
# ours. What each variant does to every file before the commands run; the first one nothing.
_VARIED = ('', "sed -i '2,$!d' {}", 'sed -i "1{{p;}}" {}', 'sed -i y/0123456789/1234567890/ {}')
_INVENT = """Invent a task for somebody at a Linux shell, in a folder with files of your making. Let the text below
give you an idea, but do not refer to it. bash, coreutils, grep, sed, awk, find and diff are there; a network and
other programs are not. Answer with these sections, all but the first with a bash script in a fenced block:

## Task
What is to be done, in one to four sentences. Name the files; say exactly what the result must look like and where it
must be.

## Setup
Writes the files, in the current folder. No randomness, no dates.

## Check
Exits with 0 if the task is done, and with 1 if it is not. It must look at the contents of the result, not at
commands.

## Solution
The commands that do the task."""
_SOLVE = """Do this task at a Linux shell, in the current folder, with bash, coreutils, grep, sed, awk, find and
diff. Answer with the commands in one fenced block."""


@dataclasses.dataclass(frozen=True)
class Candidate:
  """Scripts that the model wrote; the request for `again` showed neither setup, check nor solution."""

  task: str
  setup: str
  check: str
  solution: str
  again: str


async def generate(file: File, tools: Tools) -> Candidate | Drop:
  answer = await tools.ask(turns.request(_INVENT, file.text[:3000]), temperature=0.8, max_tokens=4000)
  found = answers.sections(answer, _SECTIONS)
  if found is None:
    return Drop('terminal: malformed answer')
  setup, check, solution = (extract.code(found[name], 'bash') for name in _SECTIONS[1:])
  files = await tools.run(_listing, setup, tools.pool)
  task = _with_files(found['Task'], files)
  again = extract.code(await tools.ask(turns.request(_SOLVE, task), max_tokens=2000, seed=1), 'bash')
  return Candidate(task, setup, check, solution, again)


async def verify(candidate: Candidate, tools: Tools) -> Conversation | Drop:
  failed = await tools.run(_rejects, candidate, tools.pool)
  if failed:
    return failed
  return turns.conversation(candidate.task, turns.fenced(candidate.solution, 'bash'), CHECKS)


def _rejects(candidate: Candidate, pool: Pool) -> Drop | None:
  scripts = (candidate.setup, candidate.check, candidate.solution, candidate.again)
  if not all(script.strip() and len(script) <= _LONGEST and '\0' not in script for script in scripts):
    return Drop('terminal: no script')
  if found := next(filter(None, (chance.decides('bash', script) for script in scripts)), ''):
    return Drop('terminal: depends on chance or time', found)
  if turns.quotes(candidate.task, candidate.solution):
    return Drop('terminal: the task gives the solution away')
  if not languages.tool_path('bash'):
    return Drop('verify: toolchain missing', 'bash')
  checked = lambda *commands: _run([candidate.setup, *commands, candidate.check], pool)
  before = checked()
  if len(before) < 2:
    return Drop('terminal: setup fails', before[0].stderr[-200:] if before else '')
  if before[1].exit == 0:
    return Drop('terminal: the goal is reached at first')
  if before[1].exit != 1 or before[1].limit:  # another status is an error of the check's own
    return Drop('terminal: the check fails', before[1].stderr[-200:])
  if any(_reached(checked(stub)) for stub in _stubs(candidate)):
    return Drop('terminal: stubs reach the goal')
  for rule, commands in (('the solution', candidate.solution), ('another solution', candidate.again)):
    if not _reached(done := checked(commands)):
      return Drop(f'terminal: {rule} does not reach the goal', done[-1].stderr[-200:] if done else '')
  return _differ(candidate, pool)


def _stubs(candidate: Candidate) -> list[str]:
  """Commands that reach a goal only if its check is content with any file, or with none.

  They create what the task and the check name, empty; write a number there; add a line; and delete all files.
  """
  words = re.findall(r'\w[\w./-]*', f'{candidate.task} {candidate.check}')
  names = ' '.join(sorted({name.rstrip('./') for name in words})[:300])
  each = f'for n in {names}; do [ -d "$n" ] || {{{{ mkdir -p "$(dirname "$n")" && {{}}; }}}}; done 2> /dev/null; true'
  return [*map(each.format, ('touch "$n"', 'echo 7 > "$n"', 'echo x >> "$n"')), 'rm -rf ./* ./.[!.]*; true']


def _differ(candidate: Candidate, pool: Pool) -> Drop | None:
  """Whether the two solutions leave different files, as the files are or varied."""
  original, varied, compared = None, 0, 0
  for number, edit in enumerate(_VARIED):
    vary = f'find . -type f -size -64k -exec {edit.format("{}")} \\;' if edit else 'true'
    scripts = [candidate.setup, vary, _STATE]
    ends = [_run([*scripts, commands, _STATE], pool) for commands in (candidate.solution, candidate.again)]
    begun = [end[2].stdout for end in ends if len(end) > 2]
    original = original or begun
    if number and begun == original:  # as where no file holds a digit
      continue
    varied += number > 0
    if not all(len(end) == 5 and all(step.exit == 0 and not step.limit for step in end) for end in ends):
      continue  # commands may well fail on files in another form
    if ends[0][4].stdout != ends[1][4].stdout:
      return Drop('terminal: solutions differ on varied files' if number else 'terminal: solutions leave other files')
    compared += number > 0
  return None if compared or not varied else Drop('terminal: solutions fail on varied files')


def _run(scripts: list[str], pool: Pool) -> list[Done]:
  """Runs scripts one after another in a folder. None is a file there, so a solution cannot change the check."""
  bash = languages.tool_path('bash')
  return execution.run([Step((bash, '-c', script), limits=execution.LIMITS) for script in scripts], pool)


def _reached(done: list[Done]) -> bool:
  """Whether setup, commands and check all ran and succeeded."""
  return len(done) == 3 and all(step.exit == 0 and not step.limit for step in done)


def _listing(setup: str, pool: Pool) -> str:
  """The files that a setup writes, a line each; '' if it fails."""
  done = _run([setup, _LISTING], pool) if setup.strip() and '\0' not in setup and len(setup) <= _LONGEST else []
  return done[1].stdout.strip() if len(done) == 2 else ''


def _with_files(task: str, files: str) -> str:
  return f'{task.strip()}\n\nFiles:\n{turns.fenced(files)}' if files else task.strip()


DOMAIN = Domain('terminal', (File,), generate, verify)
