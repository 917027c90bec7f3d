#!/usr/bin/env bash
# One run on all hosts of a Cloud TPU VM slice, started again as long as it was only interrupted.
#
#   TPU=my-slice ZONE=us-central2-b experiments/launch/tpu_vm.sh \
#     --config=configs/oct.py:oct2017 --workdir=/mnt/shared/run
#
# The repository must lie in ~/wlsrl_jax of every host, installed with pip install -e '.[tpu]'.
set -uo pipefail

: "${TPU:?set TPU to the name of the slice}" "${ZONE:?set ZONE to its zone}"
command="cd ~/wlsrl_jax && python3 -m wlsrl_jax.main --distributed$(printf ' %q' "$@")"
for attempt in $(seq 20); do
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$command"
  status=$?
  case "$status" in 0 | 2) exit "$status" ;; esac
  echo "exit status $status at attempt $attempt: starting again"
  sleep 10
done
exit "$status"
