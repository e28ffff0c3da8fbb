"""The chat template that an export carries: what text/chat.py renders, in Jinja as transformers runs it.

Messages and tools are those of text/chat.py; a call may also be wrapped as clients of OpenAI's interface send it. The
text is the same for every conversation. So are the tokens, unless a message contains the text of a special token, which
chat.py keeps as text, or an assistant's begins with white space, which chat.py never joins to its header.
"""

from iquest_jax.text import chat
from iquest_jax.text.tokenizer import IM_END, IM_START

_BEFORE_TOOLS, _AFTER_TOOLS = chat.TOOLS.split('{}')


def _quoted(text: str) -> str:
  """A string literal of Jinja."""
  return "'" + text.replace('\\', '\\\\').replace("'", "\\'").replace('\n', '\\n') + "'"


_LINES = rf"""
{{%- for message in messages -%}}
  {{%- if message.role not in {list(chat.ROLES)} -%}}
    {{{{- raise_exception('role of a message must be one of {", ".join(chat.ROLES)}, got ' ~ message.role) -}}}}
  {{%- endif -%}}
  {{%- if message.role == 'system' and not loop.first -%}}
    {{{{- raise_exception('a system message must be the first') -}}}}
  {{%- endif -%}}
{{%- endfor -%}}
{{%- if tools -%}}
  {{{{- {_quoted(IM_START)} ~ 'system\n' -}}}}
  {{%- if messages and messages[0].role == 'system' -%}}
    {{{{- messages[0].content ~ '\n\n' -}}}}
  {{%- endif -%}}
  {{{{- {_quoted(_BEFORE_TOOLS)} -}}}}
  {{%- for tool in tools -%}}
    {{{{- ('' if loop.first else '\n') ~ (tool | tojson) -}}}}
  {{%- endfor -%}}
  {{{{- {_quoted(_AFTER_TOOLS)} ~ {_quoted(IM_END)} ~ '\n' -}}}}
{{%- endif -%}}
{{%- for message in messages if not (tools and message.role == 'system') -%}}
  {{%- if message.role == 'tool' -%}}
    {{{{- {_quoted(IM_START)} ~ 'user\n<tool_response>\n' ~ message.content ~ '\n</tool_response>' -}}}}
  {{%- else -%}}
    {{{{- {_quoted(IM_START)} ~ message.role ~ '\n' -}}}}
    {{%- if message.thinking -%}}
      {{{{- '<think>\n' ~ message.thinking ~ '\n</think>\n' -}}}}
    {{%- endif -%}}
    {{{{- message.content or '' -}}}}
    {{%- for call in message.tool_calls or [] -%}}
      {{{{- '\n' if message.content or not loop.first else '' -}}}}
      {{%- set json = (call.function or call) | tojson -%}}
      {{{{- '<tool_call>\n' ~ json.replace('</tool_call>', {_quoted(chat.CLOSING_AS_JSON)}) ~ '\n</tool_call>' -}}}}
    {{%- endfor -%}}
  {{%- endif -%}}
  {{{{- {_quoted(IM_END)} ~ '\n' -}}}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}
  {{{{- {_quoted(IM_START)} ~ 'assistant\n' -}}}}
{{%- endif -%}}
"""

# Nothing of the layout above is rendered, so it need not be published.
TEMPLATE = ''.join(line.strip() for line in _LINES.splitlines())
