#!/usr/bin/env bash
# One run on SLURM, one process a GPU. It saves itself before the time is over, and when it is
# preempted, and goes on by itself.
#
#   sbatch --nodes=2 experiments/launch/slurm.sh --config=configs/oct.py:oct2017 --workdir=/shared/run
#
#SBATCH --job-name=wlsrl
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=4G
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out
set -uo pipefail

if ! python -c 'import wlsrl_jax'; then
  echo "activate the environment that wlsrl_jax is installed in before calling sbatch" >&2
  exit 2
fi

# In the directory and environment that sbatch was called in; the workdir must be on a shared disk.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # srun does not take it over by itself
srun --kill-on-bad-exit=0 python -m wlsrl_jax.main "$@"
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
  scontrol requeue "$SLURM_JOB_ID" && exit 0
  exit "$status"
fi
echo "exit status $status after ${SLURM_RESTART_COUNT:-0} restarts; giving up" >&2
exit "$status"
