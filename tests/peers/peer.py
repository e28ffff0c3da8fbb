"""What the peers share: the request of a test, and what a tokenizer of transformers makes of chats and texts."""

import json
import pathlib


def answer(folder: str, load) -> None:
  """Answers FOLDER/request.json in FOLDER/answer.json and FOLDER/logits.npy.

  `load` takes the model's folder and returns (tokenizer, logits of tokens [B, T], greedy ids after a prompt).
  """
  import numpy as np

  folder = pathlib.Path(folder)
  request = json.loads((folder / 'request.json').read_text())
  tokenizer, logits, greedy = load(request['model'])
  np.save(folder / 'logits.npy', logits(np.int32(request['tokens'])))
  answers = {
      'generated': [greedy(prompt, request['length']) for prompt in request['prompts']],
      'texts': [tokenizer.encode(text) for text in request['texts']],
      'chats': [_chat(tokenizer, **chat) for chat in request['chats']],
  }
  answers['decoded'] = [tokenizer.decode(ids) for ids in answers['generated']]
  (folder / 'answer.json').write_text(json.dumps(answers))


def _chat(tokenizer, messages, tools, prompt):
  """Ids of a conversation, or the one line that the template raises."""
  import jinja2

  how = {'tools': tools or None, 'add_generation_prompt': prompt, 'tokenize': True, 'return_dict': False}
  try:
    return list(tokenizer.apply_chat_template(messages, **how))
  except jinja2.TemplateError as error:
    return str(error)
