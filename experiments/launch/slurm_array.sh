#!/usr/bin/env bash
# A sweep on SLURM: one run for each line of a file of flags, one GPU each.
#
#   for seed in 0 1 2; do for loss in ce wlsrl; do
#     echo "--config.seed=$seed --config.loss.name=$loss --workdir=/shared/$loss-$seed"
#   done; done > sweep.txt
#   sbatch --array=1-"$(wc -l < sweep.txt)" experiments/launch/slurm_array.sh sweep.txt \
#     --config=configs/oct.py:octdl
#
#SBATCH --job-name=wlsrl-sweep
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=4G
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A-%a.out
set -uo pipefail

if ! python -c 'import wlsrl_jax'; then
  echo "activate the environment that wlsrl_jax is installed in before calling sbatch" >&2
  exit 2
fi

if [ $# -lt 2 ] || [ ! -r "$1" ]; then
  echo "usage: sbatch --array=1-N slurm_array.sh FILE_OF_FLAGS FLAGS..." >&2
  exit 2
fi
read -r -a line <<< "$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$1")"
shift
if [ "${#line[@]}" -eq 0 ]; then
  echo "line $SLURM_ARRAY_TASK_ID of the file of flags is empty or missing" >&2
  exit 2
fi

export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # srun does not take it over by itself
srun --kill-on-bad-exit=0 python -m wlsrl_jax.main "$@" "${line[@]}"
status=$?

# 0: finished. 2: a mistake in the command or the data. 75: saved on request. 76: another process
# or its host was lost. Anything else: killed, or failed. See README, "Clusters".
case "$status" in
  0 | 2) exit "$status" ;;
  75 | 76 | 137) most=20 ;; # srun gives the highest of all processes: 137 is a killed one
  *) most=3 ;;
esac
if [ "${SLURM_RESTART_COUNT:-0}" -lt "$most" ]; then
  echo "exit status $status, restart ${SLURM_RESTART_COUNT:-0}: queued again"
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" && exit 0
  exit "$status"
fi
echo "exit status $status after ${SLURM_RESTART_COUNT:-0} restarts; giving up" >&2
exit "$status"
