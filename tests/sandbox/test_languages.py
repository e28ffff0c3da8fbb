"""Every language with a toolchain here compiles, runs, reads its input and reports its errors."""

import subprocess
import sys

import pytest

from iquest_jax.errors import UserError
from iquest_jax.sandbox import bubblewrap, doctor, landlock, languages, runner, verdict
from iquest_jax.sandbox.inside import seccomp
from iquest_jax.sandbox.pool import Pool

from tests.sandbox.conftest import MB, ROOT, backends

SUMS = {
    'python': 'import sys\nprint(sum(int(x) for x in sys.stdin.read().split()))',
    'bash': 'read a b\necho $((a + b))',
    'javascript': "const s = require('fs').readFileSync(0, 'utf8').split(' ').map(Number)\nconsole.log(s[0] + s[1])",
    'c': '#include <stdio.h>\nint main() { int a, b; scanf("%d %d", &a, &b); printf("%d\\n", a + b); }',
    'cpp': '#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b << std::endl; }',
    'go': 'package main\nimport "fmt"\nfunc main() { var a, b int; fmt.Scan(&a, &b); fmt.Println(a + b) }',
    'rust': 'use std::io::*;\nfn main() { let mut s = String::new(); stdin().read_to_string(&mut s).unwrap();\n'
    'println!("{}", s.split_whitespace().map(|x| x.parse::<i32>().unwrap()).sum::<i32>()); }',
    'java': 'import java.util.*;\nclass Main { public static void main(String[] x) { Scanner s = new Scanner(System.in);\n'
    'System.out.println(s.nextInt() + s.nextInt()); } }',
}  # fmt: skip


@pytest.mark.parametrize('language', SUMS)
def test_a_program_reads_its_input_and_is_compared_by_what_it_prints(driver, language):
  try:
    done = driver.grade_output(language, SUMS[language], [('1 2', '3'), ('40 2', '42.0'), ('2 2', '5')])
  except UserError as error:
    pytest.skip(f'{language}: {error}')
  assert (done['status'], done['passed'], done['test']) == ('failed', 2, "case 3: '2 2'"), done
  assert done['reason'] == "printed '4', expected '5'"


@pytest.mark.parametrize('backend', backends())
def test_a_toolchain_outside_the_system_is_readable_inside(backend):
  with Pool(1, backend) as pool:  # Of this user, root's home included.
    try:
      done = verdict.grade_output(pool, 'rust', SUMS['rust'], [('1 2', '3')])
    except UserError as error:
      pytest.skip(f'rust: {error}')
  assert done.status == 'passed', done


def test_sql_runs_on_the_database_beside_it(driver):
  source = "create table t (a, b);\ninsert into t values (1, 'x;y'), (2, null);\nselect a, b from t order by a desc"
  assert driver.grade_output('sql', source, [('', '2|\n1|x;y')])['status'] == 'passed'


@pytest.mark.parametrize(
    ('language', 'source', 'status', 'reason'),
    [
        ('python', 'print(1', 'crashed', 'SyntaxError'),
        ('python', 'print(1)\nimport sys\nsys.exit(3)', 'crashed', 'exited with 3'),
        ('python', 'import atexit\natexit.register(print, 1)', 'passed', ''),
        ('python', 'import threading\nthreading.Timer(0.05, print, (1,)).start()', 'passed', ''),
        ('python', 'if __name__ == "__main__":\n  print(open(0).read() or 1)', 'passed', ''),
        ('python', 'x = []\nwhile True: x.append(b"x" * (1 << 20))', 'memory', ''),
        ('python', 'print(1)\0', 'crashed', 'null bytes'),
        ('python', 'print("\ud800")', 'crashed', ''),
        ('python', 'while True: pass', 'timeout', 'more than 0.5 s of wall time'),
        ('bash', 'echo 1; kill -9 $$', 'crashed', 'signal 9'),
        ('c', 'int main() { return x; }', 'failed', 'does not compile'),
        ('c', 'int main() { *(volatile int*)0 = 1; }', 'crashed', 'signal 11'),
    ],
)
def test_each_end_of_a_program_has_its_verdict(driver, language, source, status, reason):
  limits = {'wall_s': 0.5} if status == 'timeout' else {'memory_bytes': 64 * MB}
  done = driver.grade_output(language, source, [('', '1')], limits)
  assert done['status'] == status and reason in done['reason'], done


@pytest.mark.parametrize('backend', backends())
def test_a_product_that_was_not_written_is_the_failure_of_the_program(backend):
  with runner.Runner(backend) as sandbox:
    for files in ({}, {'main': 'not a program'}):
      done = sandbox.run([runner.Step(('true',)), runner.Step(('./main',), product='main')], files)
      assert done[1].exit == 126 and 'main: ' in done[1].stderr
    with pytest.raises(UserError, match='no such program: not-installed; install it'):
      sandbox.run([runner.Step(('not-installed',))])
    assert sandbox.run([runner.Step(('true',))])[0].exit == 0


def test_files_come_along_and_stay_in_the_folder(driver):
  files = {'data/input.txt': '5', 'helper.py': 'VALUE = int(open("data/input.txt").read())'}
  done = driver.grade_output('python', 'from helper import VALUE\nprint(VALUE)', [('', '5')], files=files)
  assert done['status'] == 'passed'
  for name in ('../x', '/tmp/x', 'a/../../x', ''):
    with pytest.raises(UserError, match='file names must be relative'):
      driver.grade_output('bash', 'true', [('', '')], files={name: ''})


def test_an_unknown_language_names_the_nearest(driver):
  with pytest.raises(UserError, match='sandbox: language "rusty" does not exist; did you mean "rust"'):
    driver.grade_output('rusty', '', [('', '')])


def test_a_missing_toolchain_is_reported(monkeypatch):
  monkeypatch.setattr(languages, 'tool_path', lambda tool, everyone=False: '')
  with pytest.raises(UserError, match='sandbox: go needs go; install it or skip these problems'):
    languages.steps('go', ('',), languages.Limits(), 'bubblewrap')


def test_without_any_isolation_the_error_says_what_to_install(monkeypatch):
  monkeypatch.setattr(bubblewrap, 'missing', lambda: 'bwrap is not installed')
  monkeypatch.setattr(landlock, 'abi', lambda: 2)
  with pytest.raises(UserError, match=r'no isolation .* \(bubblewrap: bwrap is not installed; landlock: Landlock ABI 3'):
    runner.choose()
  monkeypatch.setattr(landlock, 'abi', lambda: 3)
  assert runner.choose() == 'landlock'
  with pytest.raises(UserError, match='backend must be bubblewrap or landlock, got docker'):
    runner.choose('docker')


def test_the_doctor_reports_isolation_and_languages():
  checks = doctor.examine()
  assert {check.name for check in checks} == {'bubblewrap', 'landlock', *languages.LANGUAGES}
  text = doctor.render(checks)
  for check in checks:
    assert check.name in text and check.missing in text
  print(text)


def test_below_abi_6_the_filter_confines_signals():
  program = (
      'import os, signal\n'
      'from iquest_jax.sandbox.inside import kernel, seccomp\n'
      'child = os.fork()\n'
      'if not child:\n'
      '  kernel.prctl(1, signal.SIGKILL)\n'  # PR_SET_PDEATHSIG
      '  signal.pause()\n'
      'kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)\n'
      'seccomp.apply(seccomp.program(True, os.getpid()))\n'
      'signal.signal(signal.SIGUSR1, lambda *_: print("own"))\n'
      'os.kill(os.getpid(), signal.SIGUSR1)\n'
      'for act in (lambda: os.kill(child, 0), lambda: os.killpg(0, 0), lambda: os.kill(-1, 0),\n'
      '            lambda: signal.pidfd_send_signal(os.pidfd_open(child), 0)):\n'
      '  try: act(); print("sent")\n'
      '  except PermissionError: print("refused")\n'
  )  # Signal 0 only asks whether a signal could be sent.
  done = subprocess.run([sys.executable, '-u', '-c', program], cwd=ROOT, capture_output=True, text=True, timeout=60)
  assert done.stdout.split() == ['own', 'refused', 'refused', 'refused', 'refused'], done.stderr


def test_the_filter_is_only_for_the_machine_it_was_written_for(monkeypatch):
  monkeypatch.setattr(seccomp.platform, 'machine', lambda: 'aarch64')
  assert landlock.missing() == 'the system-call filter needs Linux on x86-64'
