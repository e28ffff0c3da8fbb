"""Encoding: bytes to text, and the repair of text that was decoded wrongly or holds characters that are not text."""

import re

from iquest_jax.data.documents import Drop

# ours: bytes of a file, and characters of a text, above which nobody wants it as training text. Checked before anything
# else, so that a line of a gigabyte costs nothing.
MAX_BYTES = 16 << 20

_COOKIE = re.compile(rb'coding[:=][ \t]*([-\w.]+)')  # PEP 263
_BOMS = ((b'\xff\xfe', 'utf-16-le'), (b'\xfe\xff', 'utf-16-be'))
# Of C0 only tab, newline, return and form feed (a page break in C and Emacs Lisp) are text; of C1 and the rest none.
_CONTROLS = re.compile('[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufeff\ufffe\uffff]')
_ASCII_CONTROLS = bytes(byte for byte in (*range(32), 127) if byte not in b'\t\n\r\f')
_SURROGATE = re.compile('[\ud800-\udfff]')
# How UTF-8 looks when it was read as Latin-1 or cp1252: a leading byte and as many continuation bytes as it asks for.
_CP1252 = {bytes([byte]).decode('cp1252', 'ignore'): byte for byte in range(128, 256)}
_CP1252 |= {chr(byte): byte for byte in range(128, 256)}
_classes = {
    name: ''.join(char for char, byte in _CP1252.items() if low <= byte <= high)
    for name, low, high in (('tail', 0x80, 0xBF), ('two', 0xC2, 0xDF), ('three', 0xE0, 0xEF), ('four', 0xF0, 0xF4))
}
_MOJIBAKE = re.compile(
    '(?:[{two}][{tail}]|[{three}][{tail}]{{2}}|[{four}][{tail}]{{3}})+'.format(**_classes)  # noqa: UP032
)
# ours: a garbled text is dropped if more than this share of it cannot be read.
_MAX_LOST = 0.01


def decode(data: bytes) -> str | Drop:
  """The text of a file: UTF-8, UTF-16 with a byte order mark, or the encoding that a coding cookie names.

  Other bytes are read as cp1252 if they are few, since a name in a comment should not lose a file.
  """
  if len(data) > MAX_BYTES:
    return Drop('encoding: too large', f'{len(data)} bytes')
  try:
    return data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    reason = str(error)
  for bom, name in _BOMS:
    if data.startswith(bom):
      return _decoded(data[2:], name) or Drop('encoding: not text', f'not {name} after its byte order mark')
  if b'\0' in data:
    return Drop('encoding: binary', reason)
  if (cookie := _COOKIE.search(data, 0, 200)) and (text := _decoded(data, cookie[1].decode('ascii', 'ignore'))):
    return text
  high = len(data) - len(data.translate(None, bytes(range(128, 256))))
  # ours: a tenth; Greek or Chinese in an encoding that nothing names has more, and cp1252 would make nonsense of it.
  text = _decoded(data, 'cp1252') if high <= len(data) / 10 else None
  return text if text is not None else Drop('encoding: not text', reason)


def repair(path: str, text: str) -> str | Drop:
  """Text as UTF-8 can hold it and as an editor shows it, with newlines as '\\n'.

  Joins surrogate pairs, undoes UTF-8 that was read as Latin-1 or cp1252 where all of a text's non-ASCII characters say
  so, and removes byte order marks and control characters. Newlines of Windows and old Macs become '\\n' (ours: one way
  to end a line, or the model learns to mix them). Repairing twice changes nothing.
  """
  del path
  if len(text) > MAX_BYTES:
    return Drop('encoding: too large', f'{len(text)} characters')
  if text.isascii():
    return _ascii(text)
  while not isinstance(text, Drop) and (repaired := _repaired(text)) != text:
    text = repaired
  return text


def intact(path: str, text: str) -> str | Drop:
  """Text as it is, if UTF-8 can hold it: a patch must still apply, so nothing of it is repaired."""
  del path
  if len(text) > MAX_BYTES:
    return Drop('encoding: too large', f'{len(text)} characters')
  if '\0' in text:
    return Drop('encoding: binary', 'NUL')
  if not text.isascii() and (lone := _SURROGATE.search(text)):
    return Drop('encoding: lone surrogate', f'U+{ord(lone[0]):04X}')
  return text


def _decoded(data: bytes, encoding: str) -> str | None:
  try:
    return data.decode(encoding)
  except (LookupError, ValueError):
    return None


def _ascii(text: str) -> str | Drop:
  data = text.encode()
  controls = len(data) - len(data.translate(None, _ASCII_CONTROLS))
  if controls > max(2, _MAX_LOST * len(data)):
    return Drop('encoding: binary', f'{controls} control characters')
  if controls:
    text = data.translate(None, _ASCII_CONTROLS).decode()
  return _newlines(text) if '\r' in text else text


def _newlines(text: str) -> str:
  return text.replace('\r\n', '\n').replace('\r', '\n')


def _repaired(text: str) -> str | Drop:
  if _SURROGATE.search(text):
    # Pairs, as JSON escapes write what is above U+FFFF, are one character; the others stand for nothing.
    text = text.encode('utf-16-le', 'surrogatepass').decode('utf-16-le', 'replace')
  if (lost := text.count('\ufffd')) > max(2, _MAX_LOST * len(text)):
    return Drop('encoding: not text', f'{lost} characters were lost')
  while (fixed := _without_mojibake(text)) != text:
    text = fixed
  cleaned = _CONTROLS.sub('', text)
  if (controls := len(text) - len(cleaned)) > max(2, _MAX_LOST * len(text)):
    return Drop('encoding: binary', f'{controls} control characters')
  return _newlines(cleaned) if '\r' in cleaned else cleaned


def _without_mojibake(text: str) -> str:
  """Undoes UTF-8 read as cp1252, if no other non-ASCII character of the text says that it was read rightly."""
  if not _MOJIBAKE.search(text) or not _MOJIBAKE.sub('', text).isascii():
    return text
  try:
    return _MOJIBAKE.sub(lambda run: bytes(_CP1252[char] for char in run[0]).decode(), text)
  except UnicodeDecodeError:
    return text
