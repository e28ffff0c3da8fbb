"""Train one stage: on a TPU pod (same command on every host), NVIDIA GPUs, or a CPU at tiny size.

  python -m launch.tpu --exp=midtrain_128k:size=40b_loop --workdir=runs/40b_loop
  python -m launch.tpu --exp=midtrain_128k:tiny --workdir=runs/tiny --exp.train.steps=10

Arguments follow the name: size=7b|14b|40b|40b_loop, topology=v5p-256|v5p-512|v6e-256, tiny.
--exp.FIELD=VALUE overrides a field of the configuration. Started again, a stage resumes from its
newest checkpoint.
"""

from absl import flags

from launch import command, devices, scores, training

flags.declare_key_flag('workdir')
flags.DEFINE_string('data', '', "Folder of the benchmarks' official files, if data.closed_loop names a suite.")


def main(argv):
  del argv
  config, run_folder = command.config(), command.run_folder()
  devices.start(config.size)
  training.run(config, run_folder, scores.scorer(config, run_folder, flags.FLAGS.data))


if __name__ == '__main__':
  command.run(main)
