"""Each attack program is contained and reported as what it is, on both backends; the fixture checks what it leaves."""

import contextlib
import subprocess
import sys

import pytest

from tests.sandbox.conftest import ATTACKS, MB, Driver, backends


@pytest.mark.parametrize('path', sorted(ATTACKS.glob('*.py')), ids=lambda path: path.stem)
def test_attack_programs_refuse_to_run_outside_the_sandbox(path):
  env = {'PATH': '/usr/bin:/bin', 'IQUEST_SANDBOX': 'bubblewrap'}  # The marker alone does not convince them.
  done = subprocess.run([sys.executable, '-B', path], env=env, cwd=ATTACKS, capture_output=True, text=True, timeout=60)
  assert (done.returncode, done.stdout) == (3, 'refused: not in the sandbox\n')


def contained(done, least):
  """Checks that an attack made its attempts and that none succeeded."""
  assert 'ESCAPED' not in done.stdout
  assert done.stdout.count(': contained (') >= least, done


@pytest.mark.parametrize('attack', ['endless_loop', 'ignored_sigterm', 'sleeps'])
def test_a_program_that_does_not_end_is_killed_at_the_wall_limit(driver, attack):
  done = driver.run(attack, wall_s=0.5)
  assert (done.limit, done.exit) == ('wall', -9)
  assert done.seconds < 0.5 + 5


def test_cpu_time_is_limited_apart_from_wall_time(driver):
  done = driver.run('endless_loop', cpu_s=0.3)
  assert done.limit == 'cpu' and done.cpu_s < 0.3 + 2


def test_a_stack_overflow_is_a_crash_by_signal(driver):
  assert driver.run('recursion').exit == -11


def test_a_fork_storm_stays_within_the_limit_and_ends(driver):
  done = driver.run('fork_storm', processes=30)
  assert done.exit == 0 and 20 <= int(done.stdout) <= 34 and done.limit in ('', 'processes')


@pytest.mark.parametrize('attack', ['memory', 'memory_tree'])
def test_memory_is_limited_over_the_process_tree(driver, attack):
  done = driver.run(attack, memory_bytes=128 * MB)
  assert done.limit == 'memory' and done.exit == -9
  assert done.memory_bytes < 128 * MB + 320 * MB


def test_memory_that_no_resident_set_shows_is_refused(driver):
  contained(driver.run('memory_hidden'), 6)


def test_a_flood_of_output_is_cut_and_ended(driver):
  done = driver.run('output_flood', output_bytes=100_000)
  assert done.limit == 'output' and len(done.stdout) == 100_000


def test_the_disk_is_limited_everywhere(driver):
  done = driver.run('disk_fill', disk_bytes=4 * MB)
  if driver.backend == 'landlock':
    assert done.limit == 'disk'
    return
  refused = dict(line.split(' ', 1) for line in done.stdout.splitlines())
  assert 4 * (done.stdout.count('No space left')) == 16 and int(refused['.'].split()[0]) <= 4
  assert all('0 [Errno 30] Read-only' in refused[folder] for folder in ('/', '/dev'))


def test_one_file_cannot_be_larger_than_the_disk_limit(driver):
  assert driver.run('large_file', disk_bytes=4 * MB).exit != 0


def test_the_number_of_files_is_limited(driver):
  done = driver.run('file_count', files=300)
  assert done.stdout.startswith('29') if driver.backend == 'bubblewrap' else done.limit == 'files'


def test_a_tree_too_deep_to_walk_is_removed(driver):
  done = driver.run('deep_tree', files=2000)
  assert done.stdout == 'done\n' or done.limit == 'files'


@pytest.mark.parametrize('attack', ['orphans', 'zombies'])
def test_processes_left_behind_are_ended(driver, attack):
  done = driver.run(attack)
  assert (done.exit, done.stdout) == (0, 'left\n')


def test_no_network_no_loopback_no_local_socket(driver):
  contained(driver.run('network'), 11)


def test_no_secret_of_the_environment_or_of_other_processes(driver):
  done = driver.run('environment')
  assert done.exit == 0 and 'HOME' in done.stdout
  assert 'secret-of-the-environment' not in done.stdout and 'sandbox_driver' not in done.stdout


def test_files_outside_are_out_of_reach_also_through_links(driver):
  contained(driver.run('files_outside'), 20)


def test_other_processes_cannot_be_killed_traced_read_or_limited(driver):
  done = driver.run('others')
  contained(done, 25)


@pytest.mark.skipif('landlock' not in backends(), reason='no Landlock')
def test_the_filter_stops_what_the_oldest_landlock_leaves_open():
  with contextlib.closing(Driver('landlock', '3')) as driver:
    contained(driver.run('network'), 11)
    contained(driver.run('others'), 36)
    contained(driver.run('files_outside'), 20)
    driver.assert_nothing_left()


def test_no_namespace_no_mount_no_privilege(driver):
  contained(driver.run('namespaces'), 18)
