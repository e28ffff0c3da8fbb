"""Code facts: making and checking them, of real Python and of generated JavaScript, Java and Go."""

import random
import resource
from collections.abc import Iterator

from iquest_jax.bench import clean
from iquest_jax.data import syntax
from iquest_jax.data.build.facts.make import make
from iquest_jax.data.documents import Fact, File


def results() -> Iterator[dict]:
  """MB of source per second of processor time, of this process and of that of the grammars; numpy and Python's library."""
  yield measure('python', [File(path, path, text, 'python/library') for path, text in clean.sources()[::4]])
  for language, write in (('javascript', javascript), ('java', java), ('go', go)):
    yield measure(language, generated(language, write, files=100))


def measure(language: str, files: list[File]) -> dict:
  """Times one pass over all files, less what it takes to start the process of the grammars for one of them."""
  _make(files[:1])  # imports and patterns
  _, start = _make(files[:1])
  facts, seconds = _make(files)
  size = sum(len(file.text.encode()) for file in files) / 1e6
  speed = round(size / (seconds - start), 1)
  return {'language': language, 'mb': round(size, 1), 'facts': facts, 'mb_per_cpu_second': speed}


def _make(files: list[File]) -> tuple[int, float]:
  """How many facts are made of files, and in how many seconds of processor time."""
  before = _processor_seconds()
  facts = sum(isinstance(made, Fact) for file in files for made in make(file))
  return facts, _processor_seconds() - before


def _processor_seconds() -> float:
  syntax.close()  # the time of a child counts when it has ended
  used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
  return sum(part.ru_utime + part.ru_stime for part in used)


def generated(language: str, write, files: int) -> list[File]:
  """Files of 20 kB, with names as dense as in real source; `write(rng, number)` gives a definition and the extension."""
  rng, found = random.Random(f'facts:{language}'), []
  for number in range(files):
    parts, extensions = zip(*(write(rng, part) for part in range(20)))
    path = f'src/{language}_{number}{extensions[0]}'
    found.append(File(path, path, ''.join(parts), 'generated/source'))
  return found


def javascript(rng: random.Random, number: int) -> tuple[str, str]:
  return f"""
/**
 * Computes entry {number}.
 * @returns {{number}} the total of entry {number}
 */
export function compute{number}(values, scale = {rng.randrange(99)}, label = 'entry') {{
{_lines(rng, '  const {name} = values[{value}] * scale + {value};')}
  if (values.length > scale) {{
    throw new RangeError(label);
  }}
  return values.map((value) => value + {number});
}}
""", '.js'  # fmt: skip


def java(rng: random.Random, number: int) -> tuple[str, str]:
  return f"""
class Entry{number} extends Base{rng.randrange(9)} {{
  static final int LIMIT = {rng.randrange(99)};

  /**
   * Computes an entry.
   * @return the total of entry {number}
   * @throws IllegalStateException if the entry is closed
   */
  public int compute{number}(int[] values, String label) throws IllegalStateException {{
{_lines(rng, '    int {name} = values[{value}] * LIMIT + {value};')}
    return values.length;
  }}
}}
""", '.java'  # fmt: skip


def go(rng: random.Random, number: int) -> tuple[str, str]:
  package = '' if number else 'package entries\n'
  return f"""{package}
const LIMIT_{number} = {rng.randrange(99)}

// Compute{number} returns the total of entry {number}.
func Compute{number}(values []int, scale, offset int, label string) (int, error) {{
{_lines(rng, '	{name} := values[{value}] * scale + {value}')}
	return len(values) + offset, nil
}}
""", '.go'  # fmt: skip


def _lines(rng: random.Random, template: str) -> str:
  names = ('total', 'count', 'index', 'weight', 'offset', 'length')
  return '\n'.join(template.format(name=f'{rng.choice(names)}{n}', value=rng.randrange(99)) for n in range(16))
