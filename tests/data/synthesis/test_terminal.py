"""Tasks for a shell: a check must say no at first and to stubs, and yes to two solutions."""

import asyncio
import dataclasses

import pytest

from iquest_jax.data.documents import Drop, File
from iquest_jax.data.synthesis import terminal

TASK = 'Write the lines of all .log files that contain ERROR to errors.txt, sorted, each once.'
SETUP = """mkdir logs
printf 'ERROR b\\nok\\nERROR a\\n' > logs/x.log
printf 'ERROR b\\n' > logs/y.log
echo ERROR z > notes.md
"""
CHECK = '[ "$(cat errors.txt)" = "$(printf \'ERROR a\\nERROR b\')" ] || exit 1\n'
SOLUTION = 'grep -rh ERROR --include="*.log" . | sort -u > errors.txt\n'
AGAIN = "find . -name '*.log' -exec cat {} + | grep ERROR | sort | uniq > errors.txt\n"
GOOD = terminal.Candidate(TASK, SETUP, CHECK, SOLUTION, AGAIN)


def verified(tools, candidate):
  return asyncio.run(terminal.DOMAIN.verify(candidate, tools()))


def test_a_task_that_two_solutions_do_is_kept_with_the_files_it_starts_from(tools):
  parts = {'Task': TASK, 'Setup': SETUP, 'Check': CHECK, 'Solution': SOLUTION}
  scripts = [f'## {name}\n```bash\n{text}```\n' if name != 'Task' else f'## Task\n{text}\n' for name, text in parts.items()]
  made = asyncio.run(terminal.DOMAIN.generate(File('a', 'a', 'x'), tools(''.join(scripts), f'```sh\n{AGAIN}```')))
  task = f'{TASK}\n\nFiles:\n```\n./logs/x.log\n./logs/y.log\n./notes.md\n```'
  assert made == dataclasses.replace(GOOD, task=task)
  found = verified(tools, made)
  assert found.checks == terminal.CHECKS
  assert [message['content'] for message in found.messages] == [task, f'```bash\n{SOLUTION}```']
  assert asyncio.run(terminal.DOMAIN.generate(File('a', 'a', 'x'), tools('no'))).rule == 'terminal: malformed answer'


@pytest.mark.parametrize(
    ('changes', 'rule'),
    [
        ({'check': 'true\n'}, 'terminal: the goal is reached at first'),
        ({'check': '[ -d logs ]\n'}, 'terminal: the goal is reached at first'),
        ({'check': 'exit 0\nfalse\n'}, 'terminal: the goal is reached at first'),
        ({'check': '[ -e errors.txt ]\n'}, 'terminal: stubs reach the goal'),
        ({'check': '[ ! -s logs/x.log ]\n', 'solution': ': > logs/x.log\n'}, 'terminal: stubs reach the goal'),
        ({'check': '[ -e a/b.txt ]\n', 'task': 'Make a/b.txt.', 'solution': 'mkdir a; echo > a/b.txt\n'},
         'terminal: stubs reach the goal'),
        ({'check': '[ -s errors.txt ]\n'}, 'terminal: stubs reach the goal'),
        ({'check': 'grep -qs "[0-9]" errors.txt || exit 1\n', 'solution': 'echo 2 > errors.txt\n'},
         'terminal: stubs reach the goal'),
        ({'check': '[ "$(wc -l < notes.md)" = 2 ]\n', 'solution': 'echo y >> notes.md\n'},
         'terminal: stubs reach the goal'),
        ({'check': '[ -e hidden/out.txt ]\n', 'solution': 'mkdir hidden; cp notes.md hidden/out.txt\n'},
         'terminal: stubs reach the goal'),
        ({'solution': "printf 'ERROR a\\nERROR b\\n' > errors.txt\n"}, 'terminal: solutions differ on varied files'),
        ({'solution': SOLUTION + 'touch more\n'}, 'terminal: solutions leave other files'),
        ({'solution': SOLUTION + 'chmod 600 errors.txt\n'}, 'terminal: solutions leave other files'),
        ({'solution': f'[ $(cat logs/*.log | wc -l) = 4 ] || exit 1\n{SOLUTION}'},
         'terminal: solutions fail on varied files'),
        ({'check': 'if [ 1; then\n'}, 'terminal: the check fails'),
        ({'check': 'no_such_program\n'}, 'terminal: the check fails'),
        ({'setup': 'exit 3\n'}, 'terminal: setup fails'),
        ({'solution': SOLUTION.replace('-u', '')}, 'terminal: the solution does not reach the goal'),
        ({'solution': SOLUTION + 'false\n'}, 'terminal: the solution does not reach the goal'),
        # What looks for the check has nothing to find.
        ({'solution': 'for f in $(grep -rl "exit 1" . 2>/dev/null); do echo true > "$f"; done\n'},
         'terminal: the solution does not reach the goal'),
        ({'again': 'grep ERROR *.log > errors.txt\n'}, 'terminal: another solution does not reach the goal'),
        ({'again': 'I cannot do that.'}, 'terminal: another solution does not reach the goal'),
        ({'again': ''}, 'terminal: no script'),
        *(({name: getattr(GOOD, name) + 'echo $RANDOM > /dev/null\n'}, 'terminal: depends on chance or time')
          for name in ('setup', 'check', 'solution', 'again')),
        ({'solution': SOLUTION + 'date >> errors.txt\n'}, 'terminal: depends on chance or time'),
        ({'solution': 'true\0'}, 'terminal: no script'),
        ({'task': f'{TASK} Run {SOLUTION}'}, 'terminal: the task gives the solution away'),
    ],
)  # fmt: skip
def test_planted_wrong_tasks_are_rejected(tools, changes, rule):
  found = verified(tools, dataclasses.replace(GOOD, **changes))
  assert isinstance(found, Drop) and found.rule == rule
