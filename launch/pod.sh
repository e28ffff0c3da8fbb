#!/usr/bin/env bash
# Starts one stage on every host of a pod or cluster, and starts it again after a preemption. See POD.md.
#
#   launch/pod.sh [--dry-run] tpu-create | tpu-install | tpu-stop | tpu-delete
#   launch/pod.sh [--dry-run] tpu-run --exp=midtrain_128k:size=40b_loop --workdir=gs://BUCKET/40b_loop
#   launch/pod.sh [--dry-run] xpk     --exp=... --workdir=...
#   launch/pod.sh [--dry-run] slurm   --exp=... --workdir=...
#
# What follows tpu-run, xpk or slurm goes to launch.tpu, which resumes from the newest whole checkpoint. --dry-run prints the
# commands instead. Settings are environment variables:
#
#   NAME       of the queued resource, workload or job
#   TOPOLOGY   for TPUs: v5p-256, v5p-512, v6e-256, or several slices, as in v5p-512x2
#   PROJECT, ZONE        of Google Cloud, for tpu-* and xpk
#   RUNTIME    for tpu-create: the TPU software version, such as v2-alpha-tpuv5
#   SPOT=1     for tpu-create: machines that may be taken away
#   CLUSTER, IMAGE       for xpk: the cluster, and a Docker image with this package installed
#   NODES, GPUS          for slurm: nodes, and GPUs of each (8)
#   GRACE      for xpk and slurm: seconds from SIGTERM to SIGKILL (900); one step and one save must fit
#   PASS       names of environment variables to hand on, such as "HF_TOKEN JAX_COMPILATION_CACHE_DIR". For xpk and slurm.
#              Their values are never printed and never part of a command line.
set -euo pipefail

# Exit statuses after which the same command is to be run again: preempted, stalled.
AGAIN='75 77'
LAUNCH='python -m launch.tpu --resume=newest_whole'

fail() {
  echo "error: $1" >&2
  exit 2
}

need() {
  local name
  for name in "$@"; do
    [[ -n "${!name:-}" ]] || fail "pod.sh: $name is not set; export it (the head of launch/pod.sh lists all settings)"
  done
}

# Runs a command, or prints it so that it can be pasted.
run() {
  if [[ -n "$dry_run" ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

quoted() {
  printf ' %q' "$@"
}

# v5p-512x2 -> slice v5p-512, slices 2
split_topology() {
  need TOPOLOGY
  [[ "$TOPOLOGY" =~ ^(v[0-9]+[a-z]+-[0-9]+)(x([1-9][0-9]*))?$ ]] ||
    fail "pod.sh: TOPOLOGY must be a slice, such as v5p-512 or v5p-512x2, got \"$TOPOLOGY\""
  slice=${BASH_REMATCH[1]}
  slices=${BASH_REMATCH[3]:-1}
}

# The TPU VMs of a queued resource: one per slice, which gcloud names NAME-0, NAME-1, ... if there are several.
# shellcheck disable=SC2153
nodes() {
  if ((slices > 1)); then seq -f "$NAME-%.0f" 0 $((slices - 1)); else echo "$NAME"; fi
}

# A command on every host of every slice, at the same time.
on_hosts() {
  local waiting=() node pid
  split_topology
  need NAME PROJECT ZONE
  for node in $(nodes); do
    local ssh=(gcloud compute tpus tpu-vm ssh "$node" --project="$PROJECT" --zone="$ZONE" --worker=all --command="$1")
    if [[ -n "$dry_run" ]]; then
      run "${ssh[@]}"
    else
      "${ssh[@]}" &
      waiting+=("$!")
    fi
  done
  for pid in "${waiting[@]}"; do wait "$pid"; done
}

tpu_create() {
  split_topology
  need NAME PROJECT ZONE RUNTIME
  local how=(--node-id="$NAME")
  if ((slices > 1)); then how=(--node-count="$slices" --node-prefix="$NAME"); fi
  if [[ -n "${SPOT:-}" ]]; then how+=(--spot); fi
  run gcloud compute tpus queued-resources create "$NAME" --project="$PROJECT" --zone="$ZONE" \
    --accelerator-type="$slice" --runtime-version="$RUNTIME" "${how[@]}"
}

# This checkout, as committed, in ~/iquest on every host.
tpu_install() {
  split_topology
  need NAME PROJECT ZONE
  archive=$(mktemp --suffix=.tar.gz)
  trap 'rm -f "$archive"' EXIT
  git archive --format=tar.gz --output="$archive" HEAD
  local node
  for node in $(nodes); do
    run gcloud compute tpus tpu-vm scp "$archive" "$node:iquest.tar.gz" --project="$PROJECT" --zone="$ZONE" --worker=all
  done
  # The Python of a TPU VM may be too old.
  on_hosts "mkdir -p ~/iquest && cd ~/iquest && tar xzf ~/iquest.tar.gz && python3 -m pip install --quiet uv &&
    python3 -m uv venv --quiet --allow-existing --python=3.12 .venv &&
    python3 -m uv pip install --quiet --python=.venv -e '.[tpu,gcs]'"
}

# The run outlives the connection: ~/iquest.log is its log, ~/iquest.pid its process. Nothing in the background has ssh's
# streams, or ssh would wait for its end.
tpu_run() {
  local command
  command="$LAUNCH$(quoted "$@")"
  on_hosts "cd ~/iquest && . .venv/bin/activate && rm -f ~/iquest.stop && { nohup setsid bash -c $(printf %q "
    status=75
    while [[ ' $AGAIN ' == *\" \$status \"* && ! -e ~/iquest.stop ]]; do
      $command & echo \$! > ~/iquest.pid
      wait \$! && status=0 || status=\$?
      echo \"exit status \$status\"
    done") > ~/iquest.log 2>&1 < /dev/null & }"
}

xpk_run() {
  split_topology
  need NAME PROJECT ZONE CLUSTER IMAGE
  names=$(mktemp)
  trap 'rm -f "$names"' EXIT
  # A name without a value: xpk takes the value from the environment.
  tr ' ' '\n' <<< "${PASS:-}" > "$names"
  run xpk workload create --cluster="$CLUSTER" --workload="$NAME" --project="$PROJECT" --zone="$ZONE" \
    --tpu-type="$slice" --num-slices="$slices" --docker-image="$IMAGE" --env-file="$names" --max-restarts=1000 \
    --restart-on-exit-codes="${AGAIN// /,}" --termination-grace-period-seconds="${GRACE:-900}" \
    --command="exec $LAUNCH$(quoted "$@")"
}

# One task per GPU, as jax.distributed expects under Slurm. The signal goes to the tasks alone, and the script requeues.
slurm_run() {
  need NAME NODES
  local gpus=${GPUS:-8} script
  script="#!/bin/bash
srun --kill-on-bad-exit=0 $LAUNCH$(quoted "$@") && status=0 || status=\$?
echo \"exit status \$status\"
[[ ' $AGAIN ' == *\" \$status \"* ]] && scontrol requeue \"\$SLURM_JOB_ID\"
exit \"\$status\""
  local how=(--job-name="$NAME" --nodes="$NODES" --ntasks-per-node="$gpus" --gpus-per-node="$gpus" --requeue
    --open-mode=append --output="$NAME.log" --signal="TERM@${GRACE:-900}")
  # Slurm takes the values of named variables from the environment.
  how+=(--export="PATH,HOME,VIRTUAL_ENV${PASS:+,${PASS// /,}}")
  run sbatch "${how[@]}" <<< "$script"
  if [[ -n "$dry_run" ]]; then echo "$script"; fi
}

dry_run=''
if [[ "${1:-}" == --dry-run ]]; then
  dry_run=1
  shift
fi
action=${1:-}
shift || true
case "$action" in
  tpu-run | xpk | slurm)
    [[ " $* " == *' --exp='* && " $* " == *' --workdir='* ]] ||
      fail "pod.sh: $action needs --exp=STAGE:size=SIZE and --workdir=DIR, which every host sees"
    ;;
  *) (($# == 0)) || fail "pod.sh: unexpected argument \"$1\" after \"$action\"" ;;
esac
case "$action" in
  tpu-create) tpu_create ;;
  tpu-install) tpu_install ;;
  tpu-run) tpu_run "$@" ;;
  tpu-stop) on_hosts "touch ~/iquest.stop; kill -TERM \$(cat ~/iquest.pid)" ;;
  tpu-delete)
    need NAME PROJECT ZONE
    run gcloud compute tpus queued-resources delete "$NAME" --project="$PROJECT" --zone="$ZONE" --force
    ;;
  xpk) xpk_run "$@" ;;
  slurm) slurm_run "$@" ;;
  *) fail 'pod.sh: name what to do: tpu-create, tpu-install, tpu-run, tpu-stop, tpu-delete, xpk or slurm' ;;
esac
