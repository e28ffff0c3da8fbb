"""Secrets and personal data become markers; everything else stays, and code stays code."""

import ast
import difflib
import pathlib
import random
import sysconfig

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iquest_jax.data.clean import secrets
from iquest_jax.data.clean.secrets import EMAIL, IP, KEY, PASSWORD, PHONE

# Put together here, so that no tool takes this file for a leak.
BASE64 = 'MIIEowIBAAKCAQEAu5Z+k/3Yv9qLxkTqQ0sJmWc7RrX2bN8dHfGzPpOaVtYhJlKe'
TOKENS = {
    'aws': 'AKIA' + 'QYLPMN5HHHFPZAM2', 'google': 'AIza' + 'SyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY',
    'github': 'ghp_' + 'wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx',
    'slack': 'xoxb-' + '17653672481-19874698323-pdFZKVeTuE8sk7oOcHrzqqgy',
    'stripe': 'sk_live_' + '4eC39HqLyjWDarjtT1zdp7dc',
    'openai': 'sk-' + 'proj-T3BlbkFJ5p4qVY2mGdYFb3wqKzR1x8NhCj0uLs',
    'hugging face': 'hf_' + 'QwErTyUiOpAsDfGhJkLzXcVbNmQwErTyUi', 'gitlab': 'glpat-' + 'zYx8wVu7tSr6qPo5nMl4',
    'jwt': 'eyJ' + 'hbGciOiJIUzI1NiJ9.eyJ' + 'zdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U',
    'npm': 'npm_' + 'A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8',
    'telegram': '110201543:AA' + 'HdqTcvCH1vGWJxfSeofSAs0K5PALDsawB',
    'sendgrid': 'SG.' + 'ngeVfQFYQlKU0ufo8x5d1A.' + 'TwL2iGABf9DHoTf-09kqeF8tAmbihYzrnopKc-1s5cr',
}  # fmt: skip
REPLACED = [
    *((f'key = "{token}"', f'key = "{KEY}"') for token in TOKENS.values()),
    (f'curl -H Bearer:{TOKENS["github"]} x', f'curl -H Bearer:{KEY} x'),
    ('password = "hunter2!Xq9"', f'password = "{PASSWORD}"'),
    ("{'db_password': 'S3cure-pw-88'}", f"{{'db_password': '{PASSWORD}'}}"),
    ('API_KEY: str = "9f8a7b6c5d4e3f2a1b0c9d8e"', f'API_KEY: str = "{PASSWORD}"'),
    ('String dbPwd := "kL9#mN2$pQ";', f'String dbPwd := "{PASSWORD}";'),
    ('postgres://app:s3cr7tpw9@db.internal/x', f'postgres://app:{PASSWORD}@db.internal/x'),
    ('# by Jane Doe <jane.doe@mail.acme.org>', f'# by Jane Doe <{EMAIL}>'),
    ('-joe@acme.org', f'-{EMAIL}'),
    ('mailto:j+x@acme.co.uk, k@acme.de.', f'mailto:{EMAIL}, {EMAIL}.'),
    ('host = "93.184.216.34"', f'host = "{IP}"'),
    ('http://93.184.216.34:80/', f'http://{IP}:80/'),
    ('addr = "2a00:1450:4001:81b::200e"', f'addr = "{IP}"'),
    ('tel: +49 176 1234 5678', f'tel: {PHONE}'),
    ('call (415) 555-2671 or 415-555-2671', f'call {PHONE} or {PHONE}'),
]  # fmt: skip
KEPT = [
    'version = "1.2.3.4"', 'pip install x==99.184.216.34', 'Chrome/91.0.4472.124', 'v93.184.216.34', 'oid 1.3.6.1.4.1.311',
    '2.5.29.15', '127.0.0.1', '0.0.0.0', '192.168.10.20', '10.200.30.40', '255.255.255.0', '8.8.8.8', '::1', 'fe80::1',
    '2001:db8::1', 'std::a::b', 'at 2023:10:12', '@app.route("/x")', '  @property', 'x = q@k.T', 'y = a@b.shape',
    'git@github.com:o/r.git', 'user@example.com', 'npm i react@18.2.0', 'password = getpass()', 'password = "password123"',
    'token = "<your-token>"',
    'secret = os.environ["SECRET_1"]', 'token_type = "bearer"', 'password: "${DB_PASSWORD1}"', 'x = 1 + 2 - 300 - 4000',
    'a = +1234567890', 'range(2024-10-1000)', '1234-567-8901', 'sha256:' + 'ab12' * 16,
    'id = "123e4567-e89b-12d3-a456-426614174000"',
    'http://user:pass@host.org/', 'MY_sk-learn', 'task-1234567890123456789012345678901', *secrets.MARKERS,
]  # fmt: skip


@pytest.mark.parametrize(('text', 'cleaned'), REPLACED)
def test_secrets_become_markers(text, cleaned):
  assert secrets.replace('a.py', text) == cleaned
  assert secrets.replace('a.py', cleaned) == cleaned


@pytest.mark.parametrize('text', KEPT)
def test_what_only_looks_like_a_secret_stays(text):
  assert secrets.replace('a.py', text) == text


@pytest.mark.parametrize('join', ['\n', '\\n', '\\n" +\n    "'])
def test_private_keys_lose_every_line_and_nothing_else(join):
  begin, end = ('-----' + f'{word} RSA PRIVATE KEY' + '-----' for word in ('BEGIN', 'END'))
  text = join.join([f'k = """{begin}', BASE64, '+' + BASE64[1:], f'{end}"""', 'x = 1'])
  cleaned = secrets.replace('', text)
  assert cleaned == join.join([f'k = """{begin}', KEY, KEY, f'{end}"""', 'x = 1'])
  assert secrets.replace('', cleaned) == cleaned
  assert secrets.replace('', f'"{begin}" in text and "{end}" in text') == f'"{begin}" in text and "{end}" in text'


def test_values_without_quotes_are_secret_in_configuration_alone():
  line = 'DB_PASSWORD=hunter2Xq9'
  assert secrets.replace('.env', line) == f'DB_PASSWORD={PASSWORD}'
  assert secrets.replace('a.py', line) == line


@settings(max_examples=50)
@given(st.lists(st.sampled_from([text for text, _ in REPLACED] + KEPT), min_size=2, max_size=12), st.randoms())
def test_a_cleaned_patch_still_applies_to_the_cleaned_file(lines, rng):
  old, new = lines, [line for line in lines if rng.random() < 0.7] + rng.sample(KEPT, 2)
  patch = list(difflib.unified_diff(old, new, lineterm='', n=1))[2:]
  cleaned = secrets.replace_in_patch('a.py', '\n'.join(patch)).split('\n')
  expected = [line[:1] + secrets.replace('a.py', line[1:]) if line[:1] in '+- ' else line for line in patch]
  assert cleaned == expected
  # Each line of the file is cleaned as it is alone, so what the patch removes is there.
  assert secrets.replace('a.py', '\n'.join(old)).split('\n') == [secrets.replace('a.py', line) for line in old]


def test_library_source_stays_code():
  files = sorted(pathlib.Path(sysconfig.get_paths()['stdlib']).glob('*.py'))
  for path in random.Random(0).sample(files, 100):
    text = path.read_text('utf-8', 'replace')
    cleaned = secrets.replace(str(path), text)
    if cleaned != text:
      ast.parse(cleaned)
      changed = [line for line in difflib.ndiff(text.split('\n'), cleaned.split('\n')) if line[:2] == '+ ']
      assert all(any(marker in line for marker in secrets.MARKERS) for line in changed)
      assert cleaned.count('\n') == text.count('\n')


PARTS = ['@', '.', ' ', '\n', '-', '+', ':', '"', '=', 'com', 'a', '12', '415', '555', '2671', 'token', 'password', '://']
WORDS = st.lists(st.sampled_from([*PARTS, *TOKENS.values(), *(text for text, _ in REPLACED)]), max_size=25).map(''.join)


@settings(max_examples=200)
@given(st.one_of(WORDS, st.text(st.characters(exclude_categories=[]))))
def test_markers_survive_and_lines_stay(text):
  cleaned = secrets.replace('', text)
  assert cleaned.count('\n') == text.count('\n')
  for marker in secrets.MARKERS:
    assert cleaned.count(marker) >= text.count(marker)
  assert not any(token in cleaned.split() for token in TOKENS.values())
