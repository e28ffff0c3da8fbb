"""Train one stage: on a TPU pod (same command on every host), NVIDIA GPUs, or a CPU at tiny size.

  python -m launch.tpu --exp=midtrain_128k:size=40b_loop --workdir=runs/40b_loop
  python -m launch.tpu --exp=midtrain_128k:tiny --workdir=runs/tiny --exp.train.steps=10

Arguments follow the name: size=7b|14b|40b|40b_loop, topology=v5p-256|v5p-512|v6e-256, tiny.
--exp.FIELD=VALUE overrides a field of the configuration. Started again, a stage resumes from its
newest checkpoint; if that is damaged it stops, or with --resume=newest_whole, for runs that nobody
watches, it falls back to the one before.
"""

from absl import flags

from launch import command, compilation, devices, scores, training

flags.declare_key_flag('workdir')
flags.DEFINE_bool('accept_new_rows', False, 'Resume although its rows are neither those it learned from nor an extension.')
flags.DEFINE_enum('resume', 'newest', ['newest', 'newest_whole'], 'From the newest checkpoint, or the newest whole one.')
flags.DEFINE_string('data', '', "Folder of the benchmarks' official files, if data.closed_loop names a suite.")

FLAGS = flags.FLAGS


def main(argv):
  del argv
  config, run_folder = command.config(), command.run_folder()
  devices.start(config.size)
  compilation.keep(run_folder)
  how = dict(accept_new_rows=FLAGS.accept_new_rows, newest_whole=FLAGS.resume == 'newest_whole')
  training.run(config, run_folder, scores.scorer(config, run_folder, FLAGS.data), **how)


if __name__ == '__main__':
  command.run(main)
