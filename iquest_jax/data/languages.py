"""THE table of languages: how a file's name or first line tells its language, how it comments, and which grammar parses it.

A grammar is a wheel of its own; nothing here imports one.
"""

import dataclasses
import functools
import posixpath
import re


@dataclasses.dataclass(frozen=True)
class Language:
  """A row of the table.

  Attributes:
    kind: 'code', 'data' (configuration too) or 'prose'.
    comment: what starts a comment that ends with its line; '' if the language has none.
    extensions: with their dot, in lower case.
    names: names of whole files; 'Dockerfile' also stands for 'Dockerfile.dev'.
    shebangs: names of interpreters without their version.
    grammar: module and function of its tree-sitter grammar; '' if we have none.
  """

  name: str
  kind: str
  comment: str
  extensions: tuple[str, ...]
  names: tuple[str, ...] = ()
  shebangs: tuple[str, ...] = ()
  grammar: str = ''


def _language(
    name: str, kind: str, comment: str, extensions: str, *, names: str = '', shebangs: str = '', grammar: str = ''
) -> Language:
  return Language(name, kind, comment, *(tuple(words.split()) for words in (extensions, names, shebangs)), grammar)


_ROWS = (
    # Those that tree-sitter parses.
    _language('python', 'code', '#', '.py .pyi .pyw .pyx .pxd .bzl', names='SConstruct SConscript wscript',
              shebangs='python pypy', grammar='tree_sitter_python.language'),
    _language('java', 'code', '//', '.java', grammar='tree_sitter_java.language'),
    _language('javascript', 'code', '//', '.js .mjs .cjs .jsx', names='Jakefile', shebangs='node nodejs deno bun',
              grammar='tree_sitter_javascript.language'),
    _language('typescript', 'code', '//', '.ts .mts .cts', shebangs='ts-node tsx',
              grammar='tree_sitter_typescript.language_typescript'),
    _language('tsx', 'code', '//', '.tsx', grammar='tree_sitter_typescript.language_tsx'),
    _language('c', 'code', '//', '.c .h', grammar='tree_sitter_c.language'),
    _language('cpp', 'code', '//', '.cc .cpp .cxx .c++ .hh .hpp .hxx .h++ .inl .ipp .tpp .cu .cuh .ino',
              grammar='tree_sitter_cpp.language'),
    _language('csharp', 'code', '//', '.cs .csx', grammar='tree_sitter_c_sharp.language'),
    _language('go', 'code', '//', '.go', grammar='tree_sitter_go.language'),
    _language('rust', 'code', '//', '.rs', shebangs='rust-script', grammar='tree_sitter_rust.language'),
    _language('ruby', 'code', '#', '.rb .rake .gemspec .ru .podspec', shebangs='ruby jruby',
              names='Rakefile Gemfile Podfile Vagrantfile Guardfile Capfile Brewfile Fastfile',
              grammar='tree_sitter_ruby.language'),
    _language('php', 'code', '//', '.php .phtml .php5 .php7', shebangs='php', grammar='tree_sitter_php.language_php'),
    _language('bash', 'code', '#', '.sh .bash .zsh .ksh .bats', shebangs='sh bash dash zsh ksh',
              names='.bashrc .bash_profile .profile .zshrc PKGBUILD', grammar='tree_sitter_bash.language'),
    # Code without a grammar of ours.
    _language('ada', 'code', '--', '.adb .ads'),
    _language('assembly', 'code', ';', '.asm .s'),
    _language('batch', 'code', 'REM', '.bat .cmd'),
    _language('clojure', 'code', ';', '.clj .cljs .cljc .edn'),
    _language('cmake', 'code', '#', '.cmake', names='CMakeLists.txt'),
    _language('common-lisp', 'code', ';', '.lisp .lsp'),
    _language('crystal', 'code', '#', '.cr'),
    _language('css', 'code', '', '.css'),
    _language('d', 'code', '//', '.d'),
    _language('dart', 'code', '//', '.dart'),
    _language('dockerfile', 'code', '#', '.dockerfile', names='Dockerfile Containerfile'),
    _language('elixir', 'code', '#', '.ex .exs', shebangs='elixir'),
    _language('elm', 'code', '--', '.elm'),
    _language('emacs-lisp', 'code', ';', '.el'),
    _language('erlang', 'code', '%', '.erl .hrl', shebangs='escript'),
    _language('fish', 'code', '#', '.fish', shebangs='fish'),
    _language('fortran', 'code', '!', '.f .for .f77 .f90 .f95 .f03 .f08'),
    _language('fsharp', 'code', '//', '.fs .fsi .fsx'),
    _language('glsl', 'code', '//', '.glsl .vert .frag .comp'),
    _language('graphql', 'code', '#', '.graphql .gql'),
    _language('groovy', 'code', '//', '.groovy .gradle', names='Jenkinsfile', shebangs='groovy'),
    _language('haskell', 'code', '--', '.hs .lhs', shebangs='runhaskell'),
    _language('hcl', 'code', '#', '.tf .hcl .tfvars'),
    _language('html', 'code', '', '.html .htm .xhtml'),
    _language('jinja', 'code', '', '.j2 .jinja .jinja2'),
    _language('julia', 'code', '#', '.jl', shebangs='julia'),
    _language('kotlin', 'code', '//', '.kt .kts', shebangs='kotlin'),
    _language('less', 'code', '//', '.less'),
    _language('lean', 'code', '--', '.lean'),
    _language('lua', 'code', '--', '.lua', shebangs='lua luajit'),
    _language('makefile', 'code', '#', '.mk .mak', names='Makefile makefile GNUmakefile Kbuild', shebangs='make'),
    _language('matlab', 'code', '%', '.m'),
    _language('meson', 'code', '#', '', names='meson.build meson_options.txt meson.options'),
    _language('nim', 'code', '#', '.nim .nims'),
    _language('nix', 'code', '#', '.nix'),
    _language('objective-c', 'code', '//', '.mm'),
    _language('ocaml', 'code', '', '.ml .mli', shebangs='ocaml'),
    _language('pascal', 'code', '//', '.pas .dpr .lpr'),
    _language('perl', 'code', '#', '.pl .pm .t', shebangs='perl'),
    _language('powershell', 'code', '#', '.ps1 .psm1 .psd1', shebangs='pwsh'),
    _language('prolog', 'code', '%', '.prolog', shebangs='swipl'),
    _language('protobuf', 'code', '//', '.proto'),
    _language('r', 'code', '#', '.r', names='.Rprofile', shebangs='Rscript'),
    _language('racket', 'code', ';', '.rkt', shebangs='racket'),
    _language('sass', 'code', '//', '.scss .sass'),
    _language('scala', 'code', '//', '.scala .sc .sbt', shebangs='scala'),
    _language('scheme', 'code', ';', '.scm .ss', shebangs='guile'),
    _language('solidity', 'code', '//', '.sol'),
    _language('sql', 'code', '--', '.sql .ddl .pgsql'),
    _language('starlark', 'code', '#', '.star', names='BUILD BUILD.bazel WORKSPACE MODULE.bazel'),
    _language('svelte', 'code', '', '.svelte'),
    _language('swift', 'code', '//', '.swift', shebangs='swift'),
    _language('systemverilog', 'code', '//', '.sv .svh'),
    _language('tcl', 'code', '#', '.tcl', shebangs='tclsh wish'),
    _language('thrift', 'code', '//', '.thrift'),
    _language('vba', 'code', "'", '.bas .vb .vbs'),
    _language('verilog', 'code', '//', '.v .vh'),
    _language('vhdl', 'code', '--', '.vhd .vhdl'),
    _language('vim', 'code', '"', '.vim', names='.vimrc'),
    _language('vue', 'code', '', '.vue'),
    _language('zig', 'code', '//', '.zig'),
    # Data and configuration.
    _language('csv', 'data', '', '.csv .tsv'),
    _language('diff', 'data', '', '.diff .patch'),
    _language('dotenv', 'data', '#', '.env', names='.env'),
    _language('gitignore', 'data', '#', '', names='.gitignore .gitattributes .gitmodules .dockerignore .npmignore'),
    _language('ini', 'data', ';', '.ini .cfg .conf .properties', names='.editorconfig .flake8 .pylintrc .npmrc'),
    _language('json', 'data', '', '.json .jsonl .ndjson .geojson .webmanifest .json5 .jsonc .map',
              names='.eslintrc .babelrc .prettierrc composer.lock Pipfile.lock'),
    _language('jupyter', 'data', '', '.ipynb'),
    _language('svg', 'data', '', '.svg'),
    _language('toml', 'data', '#', '.toml', names='Pipfile Cargo.lock poetry.lock uv.lock'),
    _language('xml', 'data', '', '.xml .xsd .xsl .xslt .plist .csproj .vbproj .fsproj .props .targets .resx .wsdl .pom'),
    _language('yaml', 'data', '#', '.yaml .yml', names='.clang-format .clang-tidy'),
    # Prose.
    _language('asciidoc', 'prose', '//', '.adoc .asciidoc'),
    _language('latex', 'prose', '%', '.tex .sty .cls .bib'),
    _language('man', 'prose', '.\\"', '.man'),
    _language('markdown', 'prose', '', '.md .markdown .mdx .mkd .rmd'),
    _language('org', 'prose', '#', '.org'),
    _language('restructuredtext', 'prose', '..', '.rst'),
    _language('text', 'prose', '', '.txt .text',
              names='README LICENSE LICENCE COPYING NOTICE AUTHORS CONTRIBUTORS CHANGELOG CHANGES NEWS TODO INSTALL'),
)  # fmt: skip

LANGUAGES = {language.name: language for language in _ROWS}
PARSED = tuple(language.name for language in _ROWS if language.grammar)

_EXTENSIONS = {extension: language.name for language in _ROWS for extension in language.extensions}
_NAMES = {name: language.name for language in _ROWS for name in language.names}
_SHEBANGS = {shebang: language.name for language in _ROWS for shebang in language.shebangs}

# Names that say less than the text does: the beginning of a header or of a '.m' is read too.
_HEAD_CHARACTERS = 1 << 16
_CPP = re.compile(
    r'^[ \t]*(?:class\s+\w+(?:\s+\w+)?\s*[:{;]|namespace(?:\s+[\w:]+)?\s*\{|template\s*<|using\s+(?:namespace\b|\w+\s*=)'
    r'|(?:public|private|protected)\s*:|#\s*include\s*<\w+>)'
    r'|-\*-\s*(?i:mode:\s*)?(?i:c\+\+)|\bstd::|\bconstexpr\b|\boperator\s*[^\w\s(]{1,3}\s*\(',
    re.MULTILINE,
)
_OBJECTIVE_C = re.compile(r'^\s*(?:#import\b|@(?:interface|implementation|import|protocol|class)\b)', re.MULTILINE)
_SHEBANG = re.compile(r'#!\s*(?:\S*/)?(\S+)(.*)')


def language_of(path: str, text: str = '') -> str:
  """The name of a file's language, from its path, then from its first line; '' if neither tells.

  Args:
    path: separated by '/'.
    text: of the file, or its beginning. The first line is enough for a shebang; C and C++ headers, and Objective-C and
      MATLAB, are told apart by the first 64 KiB.
  """
  name = posixpath.basename(path)
  if found := _named(name):
    if name[-2:] in ('.h', '.H') and _CPP.search(text, 0, _HEAD_CHARACTERS):
      return 'cpp'
    if found == 'matlab' and _OBJECTIVE_C.search(text, 0, _HEAD_CHARACTERS):
      return 'objective-c'
    return found
  return _interpreted(text[:200]) if text.startswith('#!') else ''


@functools.lru_cache(1 << 16)
def _named(name: str) -> str:
  if found := _NAMES.get(name):
    return found
  stem, extension = posixpath.splitext(name)
  # '.C' is C++ by the convention of make; elsewhere case means nothing.
  if extension == '.C':
    return 'cpp'
  found = _EXTENSIONS.get(extension.lower(), '')
  return found or (_NAMES.get(name.partition('.')[0], '') if stem else '')


def _interpreted(line: str) -> str:
  """The language of a shebang line: '#!/usr/bin/env -S python3.11 -u' is Python."""
  match = _SHEBANG.match(line)
  if not match:
    return ''
  words = [match[1], *match[2].split()]
  if words[0] == 'env':
    words = [word for word in words[1:] if not word.startswith('-') and '=' not in word]
  return _SHEBANGS.get(re.sub(r'[\d.]+$', '', posixpath.basename(words[0])), '') if words else ''
