"""A small source in each language that facts are made of, with everything that must and must not be asked about."""

import re

from iquest_jax.data.build.facts import questions

PYTHON = '''\
"""Shapes."""
import abc

MAX_SIDES = 12
API_VERSION = '1.2.3'


class Shape(abc.ABC):
  LIMIT: int = 7

  def __init__(self, sides, name="shape", *, closed=True):
    self.sides = sides

  def scale(self, factor: float, origin=(0, 0)) -> 'Shape':
    """Returns a copy of the shape that is larger by the factor.

    Raises:
      ValueError: if factor is negative
      TypeError: the factor is a string
    """
    if factor < 0:
      raise ValueError(f'({factor}')
    return self

  def area(self):
    raise NotImplementedError


class Square(Shape):
  def area(self):
    try:
      raise KeyError('caught')
    except KeyError:
      return 1

  @staticmethod
  def unit(side=1.5):
    # raise TypeError(side): a comment
    """Return the unit square."""
    return Square(side)


def area_of(shape, *rest, unit="m, (sic)", digits=-1):
  def inner(x):
    raise OSError(x)
  return inner(shape)


if MAX_SIDES > 3:
  def twice(a):
    return a
else:
  def twice(a, b):
    return a


def rebound(a, b):
  return a


rebound = area_of


def outdated(a=3):
  """Doubles a number. Deprecated since 1.2."""
  return a
'''
JAVASCRIPT = r"""
import fs from 'fs';
const MAX_DEPTH = 8;
export const DEFAULT_NAME = 'tree';
let MIN_DEPTH = 1;

/**
 * Walks a tree.
 * @param {Node} node
 * @returns {number} the number of nodes below the node
 * @throws {RangeError} if the tree is deeper than the limit
 */
export function walk(node, depth = 0, label = "a, b (c") {
  if (depth > MAX_DEPTH) {
    throw new RangeError(`too deep: ${depth}`);
  }
  return /["'`{]/.test(label) ? 1 : node.length;
}

const prune = async (tree, { keep, drop }, ...others) => {
  try { throw new TypeError('caught'); } catch (error) { return others; }
};

const double = value => value * 2;

export default class Leaf extends Node {
  #hidden(a, b) { const helper = (x, y, z) => x; return helper; }
  get colour() { return 1; }
  set colour(value) { this.value = value; }
  constructor(parent, weight = -1.5) { super(parent); }
  async visit(visitor, options = {}) {
    const later = () => { throw new Error('not here'); };
    return later;
  }
}

class Other { draw(a) { return a; } }
class Another { draw(a, b) { return b; } }
function again(a) { return a; }
again = (a, b) => b;
"""
TYPESCRIPT = """
export abstract class Store<T extends Item> extends Base<T> implements Closeable {
  constructor(private readonly path: string, size?: number) { super(); }
  find(key: string, match: (a: T) => boolean = all, limit: number = 10): Promise<Map<string, T>> {
    throw new StoreError('x');
  }
  over(a: string): void;
  over(a: number): void;
  over(a: any): void { }
}
export interface Closeable { close(force: boolean): void }
function merge(left: Store<Item>, right: { a: number, b: string }): Item[] { return []; }
const SIZE: number = 64;
"""
JAVA = """
package a.b;
import java.io.IOException;

/** A queue, { with braces. */
public class Queue<E extends Item> extends Base<E> implements Closeable {
  public static final int MAX_SIZE = 16;
  private int MIN_SIZE = 1;

  public Queue(int size, List<? super E> items) {
    if (size < 0) { throw new IllegalArgumentException("size (" + size); }
  }

  /**
   * Takes an element.
   *
   * @param wait how long to wait
   * @return the element at the head
   *         of the queue. It is removed.
   * @throws IllegalStateException if the queue
   *         is closed
   */
  @Override
  public Map<String, E> take(final long wait, String[] names) throws InterruptedException {
    return null;
  }

  int over(int a) { return a; }
  int over(String a) { return 1; }
  @Deprecated
  public int old(int a) { return a; }
  void many(int a, String... rest) { Runnable r = () -> { throw new Error(); }; }

  static final class Node extends Link { Node(Object value) { } }
}
interface Closeable { void close(boolean force) throws IOException; }
"""
GO = """
package tree

const MAX_DEPTH = 8
const (
\tMIN_DEPTH int = 2
\tA, B = 1, 2
)

type Tree struct { left, right *Tree }

// Walk returns the number of nodes
// below the root. It never fails.
func Walk(root *Tree, depth, limit int, name string) (int, error) {
\treturn depth, nil // func Walk(
}

func (t *Tree) Insert(key string, values map[string]int) *Tree { return t }
func (n Node) Insert(key int) {}
func Join(first string, rest ...string) string { return `func Join(a) {` }
func unnamed(int, string) bool { return true }
"""
SOURCES = {'a.py': PYTHON, 'a.js': JAVASCRIPT, 'a.ts': TYPESCRIPT, 'src/Queue.java': JAVA, 'tree/tree.go': GO}

# Everything that may be asked about them, read by hand: kind, subject, detail, answer.
TRUTH = {
    'a.py': '''
constant MAX_SIDES: value = 12;
class Shape: base = abc.ABC;
constant Shape.LIMIT: value = 7;
method Shape.__init__: count = 3; names = sides, name, closed; position first = sides; position second = name;
  default name = "shape"; default closed = True;
method Shape.scale: count = 2; names = factor, origin; position first = factor; position second = origin;
  type factor = float; default origin = (0, 0); returns = 'Shape'; raises = ValueError;
  documented result = a copy of the shape that is larger by the factor;
  documented error ValueError = if factor is negative;
method scale: owner = Shape;
method Shape.area: count = 0; raises = NotImplementedError;
class Square: base = Shape;
method Square.area: count = 0;
method Square.unit: count = 1; default side = 1.5; documented result = the unit square;
method unit: owner = Square;
function area_of: default unit = "m, (sic)"; default digits = -1;
''',
    'a.js': '''
constant MAX_DEPTH: value = 8;
constant DEFAULT_NAME: value = 'tree';
function walk: count = 3; names = node, depth, label; position first = node; position second = depth;
  position third = label; default depth = 0; default label = "a, b (c"; raises = RangeError;
  documented result = the number of nodes below the node;
  documented error RangeError = if the tree is deeper than the limit;
function double: count = 1;
class Leaf: base = Node;
method Leaf.constructor: count = 2; names = parent, weight; position first = parent; position second = weight;
  default weight = -1.5;
method Leaf.visit: count = 2; names = visitor, options; position first = visitor; position second = options;
  default options = {};
method visit: owner = Leaf;
method Other.draw: count = 1;
method Another.draw: count = 2; names = a, b; position second = b;
''',
    'a.ts': '''
method Store.constructor: count = 2; names = path, size; position first = path; position second = size;
  type path = string; type size = number;
method Store.find: count = 3; names = key, match, limit; position first = key; position second = match;
  position third = limit; type key = string; type match = (a: T) => boolean; default match = all;
  type limit = number; default limit = 10; returns = Promise<Map<string, T>>; raises = StoreError;
method find: owner = Store;
function merge: count = 2; names = left, right; position first = left; position second = right;
  type left = Store<Item>; type right = { a: number, b: string }; returns = Item[];
constant SIZE: value = 64;
''',
    'src/Queue.java': '''
class Queue: base = Base<E>;
constant Queue.MAX_SIZE: value = 16;
constructor Queue.Queue: count = 2; names = size, items; position first = size; position second = items;
  type size = int; type items = List<? super E>; raises = IllegalArgumentException;
method Queue.take: count = 2; names = wait, names; position first = wait; position second = names;
  type wait = long; type names = String[]; returns = Map<String, E>; throws = InterruptedException;
  documented result = the element at the head of the queue;
  documented error IllegalStateException = if the queue is closed;
method Queue.many: type a = int;
class Queue.Node: base = Link;
constructor Queue.Node.Node: count = 1; type value = Object;
method Closeable.close: count = 1; type force = boolean; throws = IOException;
''',
    'tree/tree.go': '''
constant MAX_DEPTH: value = 8;
constant MIN_DEPTH: value = 2;
function Walk: count = 4; names = root, depth, limit, name; position first = root; position second = depth;
  position third = limit; position fourth = name; type root = *Tree; type depth = int; type limit = int;
  type name = string; returns = (int, error); documented result = the number of nodes below the root;
method Tree.Insert: count = 2; names = key, values; position first = key; position second = values;
  type key = string; type values = map[string]int; returns = *Tree;
method Node.Insert: count = 1; type key = int;
function Join: type first = string; returns = string;
function unnamed: returns = bool;
''',
}  # fmt: skip


def truth(path: str) -> set[tuple[str, str, str, str, str]]:
  """{(kind, noun, subject, detail, answer)} of a source."""
  found = set()
  for entry in re.split(r'\n(?=\w)', TRUTH[path].strip()):
    (noun, subject), facts = entry.split(': ', 1)[0].split(' '), entry.split(': ', 1)[1]
    for fact in filter(None, re.split(r';\s*', facts.replace('\n', ' '))):
      question, answer = fact.split(' = ', 1)
      kind = next(kind for kind in questions.KINDS if question.startswith(kind))
      found.add((kind, noun, subject, question.removeprefix(kind).strip(), answer))
  return found
