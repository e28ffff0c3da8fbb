"""`launch.chain diff` shows what each stage changes, in lines of at most 100 columns."""


def test_diff_shows_every_phase_of_a_mixture_in_short_lines(commands):
  lines = commands.run(['-m', 'launch.chain', 'diff', '--size=40b_loop']).stdout.splitlines()
  assert max(map(len, lines)) <= 100
  stages = ' '.join(lines).split('midtrain_128k -> sft_instruct')
  assert '- from step 0: reasoning_qa 22%' in stages[1] and '+ from step 2,000: chat_instruct 25%' in stages[1]
  assert '  train.steps: 71526 -> 3000' in lines
