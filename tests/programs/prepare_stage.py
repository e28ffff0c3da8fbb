"""Prepares a stage and prints each source as it starts: CONFIG_JSON WORKDIR DOCUMENTS."""

import json
import pathlib
import sys

from ml_collections import ConfigDict

from iquest_jax.data.prepare import prepare
from iquest_jax.run_folder import RunFolder

config, workdir, documents = sys.argv[1:]
run = RunFolder(pathlib.Path(workdir))
prepare(ConfigDict(json.loads(config)), run, documents, progress=lambda source: print(source, flush=True))
