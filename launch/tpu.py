"""Train one stage: on a TPU pod (the same command on every host), on NVIDIA GPUs, or at tiny size on a CPU.

  python -m launch.tpu --exp=midtrain_128k:size=40b_loop --workdir=runs/40b_loop
  python -m launch.tpu --exp=midtrain_128k:tiny --workdir=runs/tiny --exp.train.steps=10

Arguments ride on the name: size=7b|14b|40b|40b_loop, topology=v5p-256|v5p-512|v6e-256, tiny. Fields of the
configuration are overridden as --exp.FIELD=VALUE. Started again, a stage goes on at its newest checkpoint.
"""

from absl import flags

from launch import command

flags.declare_key_flag('workdir')


def main(argv):
  del argv
  config, run_folder = command.config(), command.run_folder()
  from launch import devices

  devices.start(config.size)
  from iquest_jax.train import loop

  loop.run(config, run_folder)


if __name__ == '__main__':
  command.run(main)
